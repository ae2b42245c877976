//! What several tests of the facade set up.
#![allow(clippy::unwrap_used)] // helpers of tests

use email_router::crm::embedded::admin::{Admin, fields};

/// Adds a queue whose mail the router reads, all of it.
pub(crate) async fn add_queue(admin: &Admin, name: &str, address: &str) {
    let queue = [
        ("name", name),
        ("emailaddress", address),
        ("emailrouteraccessapproval", "1"),
        ("incomingemaildeliverymethod", "2"),
        ("incomingemailfilteringmethod", "0"),
    ];
    admin.add("queue", &fields(queue)).await.unwrap();
}
