//! Passes over a POP3 server: what its ways with ids mean for a message that was deleted.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::sync::Arc;

use email_router_engine::router::IncomingRoute;
use email_router_testkit::pop3::{Pop3Options, Pop3Server};
use email_router_transport::net::{Credentials, Endpoint, SharedCredentials, TlsMode};
use email_router_transport::pop3::{Pop3Settings, Pop3Transport};
use world::{Place, World, mail};

/// A queue whose processed mail is deleted, on this server.
async fn setup(options: Pop3Options) -> (World, Pop3Server, Place, IncomingRoute) {
    let world = World::new();
    let help = world.queue("help");
    let server = Pop3Server::start(options).await;
    server.add_user("help", "s3cret");
    let account = SharedCredentials::account(Credentials::new("help", "s3cret".into()));
    let endpoint = Endpoint::new("localhost", server.port(), TlsMode::None);
    let mut settings = Pop3Settings::new(endpoint, Arc::new(account));
    settings.cleartext_allowed = true;
    let mut route = world.route(&help, Pop3Transport::new(settings).unwrap());
    route.settings.delete_after_processing = true;
    (world, server, help, route)
}

/// A server that gives the number of a message as its unique-id: the first message is always `1`.
#[tokio::test]
async fn a_unique_id_used_again_is_another_message() {
    let (world, server, _, route) = setup(Pop3Options::default()).await;
    for subject in ["first", "second", "third"] {
        server.put("help", "uid0", mail(subject).bytes().to_vec());
        assert_eq!(world.pass(&route).await.delivered, 1, "{subject}");
        assert_eq!(server.messages("help").len(), 0, "{subject}");
    }
    assert_eq!(world.crm.received(), ["first", "second", "third"]);
}

/// As long as QUIT fails nothing is certain: the record stays and the message is not routed again.
#[tokio::test]
async fn a_refused_quit_forgets_nothing() {
    let (world, server, help, route) =
        setup(Pop3Options { quit_fails: true, ..Pop3Options::default() }).await;
    server.put("help", "uid0", mail("first").bytes().to_vec());
    assert!(world.try_pass(&route).await.1.is_err());
    assert_eq!(world.attempts(&help, &"uid0".into()).await, Some(1));
    let (report, result) = world.try_pass(&route).await;
    assert!(result.is_err());
    assert_eq!((report.processed, world.crm.received().len(), server.messages("help").len()), (0, 1, 1));
}
