//! HTTP as email-router needs it: one method, capped bodies, deadlines, credentials that fit the connection, errors with three axes.
//!
//! [`HttpService`] is what the EWS, Graph and Dataverse clients ask for; [`HttpClient`] is the one implementation, and a test may hand in
//! another. What it deliberately is not: it follows no redirect, repeats nothing, keeps no cookie and decodes no content, since each of those is
//! a decision of the protocol above it.
#![warn(missing_docs)]

mod client;
mod contract;
mod error;
pub mod oauth;
mod retry_after;

pub use client::{HttpClient, HttpSettings, Proxy};
pub use contract::{Body, BodySource, HttpService, Login, Request, Response, Scheme};
pub use error::{Error, ErrorKind, Result};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
pub use retry_after::{LONGEST_RETRY_DELAY, retry_after};
