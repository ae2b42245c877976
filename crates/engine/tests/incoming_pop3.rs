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

/// A server without UIDL: a pass lists as far as it works, each header section is read once, and the mailbox gets empty.
#[tokio::test]
async fn without_unique_ids_a_pass_lists_as_far_as_it_works() {
    for top in [true, false] {
        let (world, server, _, mut route) =
            setup(Pop3Options { uidl: false, top, ..Pop3Options::default() }).await;
        for n in 0..150 {
            server.put("help", &format!("uid{n}"), mail(&format!("m{n}")).bytes().to_vec());
        }
        route.settings.max_messages_per_cycle = 40;
        route.settings.header_first_above = 10;
        let mut passes = 0;
        while !server.messages("help").is_empty() {
            let (before, left) = (server.commands().len(), server.messages("help").len());
            let report = world.pass(&route).await;
            passes += 1;
            assert_eq!(report.processed, 40.min(left as u64), "{passes}, top {top}");
            let commands = server.commands().split_off(before);
            let tops = commands.iter().filter(|c| c.starts_with("TOP")).count();
            // two windows, and what the session has under way beyond them
            assert!(tops <= if top { 64 + 64 } else { 1 }, "{tops} in pass {passes}");
            let first = commands.iter().filter(|c| *c == "TOP 1 0").count();
            assert!(first <= 1, "pass {passes} asked {first} times");
        }
        assert_eq!((passes, world.crm.received().len()), (4, 150), "top {top}");
    }
}
