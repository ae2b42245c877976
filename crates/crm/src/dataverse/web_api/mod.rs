//! The Web API (OData 4) as a protocol: requests with one identity's login under its limits, errors, pages, batches, text rules. It knows no table.

pub(crate) mod batch;
pub(crate) mod fault;
#[cfg(test)]
mod foreign;
pub(crate) mod literal;
mod pages;
mod session;

pub(crate) use self::batch::Operation;
pub(crate) use self::pages::Page;
pub(crate) use self::session::{Ask, Session, place};
