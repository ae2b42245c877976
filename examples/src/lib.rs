//! The examples are in `examples/`; each needs neither arguments nor a network, works in a temporary folder and ends by itself.
//!
//! | example | shows |
//! |---|---|
//! | `embed_router` | a router from pieces of your own: transport, CRM, state, observer |
//! | `custom_transport` | a mail system of your own behind `Transport`, checked by the public conformance suite |
//! | `test_access` | test access from a program |
//! | `route_maildir` | a Maildir into the embedded CRM, by a configuration |
