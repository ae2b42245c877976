//! HTTP as email-router needs it: one method, capped bodies, deadlines, credentials that fit the connection, errors with three axes.
//!
//! [`HttpService`] is what the EWS, Graph and Dataverse clients ask for; [`HttpClient`] is the one implementation, and a test may hand in
//! another. What it deliberately is not: it follows no redirect, repeats nothing, keeps no cookie and decodes no content, since each of those is
//! a decision of the protocol above it.
//!
//! | item | what it guards |
//! |---|---|
//! | [`HttpClient`] | HTTP/1.1, each connection under our own pool: one that a login has proven (NTLM, Negotiate) serves that login alone |
//! | [`HttpSettings`], [`Proxy`] | deadlines, limits, trust, the way through a proxy |
//! | [`Error`] | why no answer came, and whether the request left |
//! | [`Login::redactor`] | keeps password and token out of what a server says |
//! | [`challenges`], [`retry_after`] | header fields that servers write in many ways |
//! | [`oauth`] | access tokens of Microsoft Entra ID, one for all mailboxes of an application |
#![warn(missing_docs)]

mod body;
mod challenge;
mod client;
mod connect;
mod connection;
mod contract;
mod error;
mod exchange;
mod fault;
pub mod oauth;
mod pool;
mod proxy;
mod retry_after;

pub use challenge::{Challenge, challenges};
pub use client::{HttpClient, HttpSettings};
pub use contract::{Body, BodySource, HttpService, Login, Request, Response, Scheme};
pub use error::{Error, ErrorKind, Result};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
pub use proxy::Proxy;
pub use retry_after::{LONGEST_RETRY_DELAY, retry_after};
