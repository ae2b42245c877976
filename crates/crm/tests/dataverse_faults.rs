//! What goes wrong at a server: nothing is lost, nothing is doubled, and the message says what to do.
#![cfg(all(feature = "conformance", feature = "dataverse"))]

mod dataverse_support;

use std::time::Duration;

use bytes::Bytes;
use dataverse_support::World;
use email_router_crm::conformance::{Fixture as _, Seed};
use email_router_crm::dataverse::CheckState;
use email_router_crm::{
    Attachment, Claim, CorrelationMethod, CrmClient as _, Delivered, EmailLookup, EmailStatus, ErrorKind,
    IncomingEmail, ParticipationType, Party, PendingQuery, Priority, SendOutcome, SmartHashes,
};
use email_router_model::{
    ActivityId, Classified as _, Direction, EmailAddress, MessageId, RecordRef, Retry, Scope,
};
use email_router_testkit::dataverse::Fault;

fn email(world: &World, message_id: &str) -> IncomingEmail {
    let party = |participation, at: &str| Party {
        participation,
        record: None,
        address: Some(EmailAddress::parse(at).unwrap()),
        name: None,
    };
    let message_id = MessageId::parse(message_id).unwrap();
    let organization = world.crm().organization_id();
    IncomingEmail {
        activity_id: ActivityId::derive(&organization, Direction::Incoming, message_id.as_str()),
        message_id: Some(message_id),
        in_reply_to: None,
        references: vec![MessageId::parse("<root@x>").unwrap()],
        conversation_index: None,
        subject: "Hello".to_owned(),
        body: "<p>body</p>".to_owned(),
        body_mime_type: "text/html".to_owned(),
        parties: vec![
            party(ParticipationType::Sender, "bob@contoso.example"),
            party(ParticipationType::To, "ann@fabrikam.example"),
        ],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: CorrelationMethod::None,
        tracking_token: None,
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: None,
        is_duplicate_sender_unresolved: false,
        received_on: None,
        sent_on: None,
        priority: Priority::Normal,
        attachments: Vec::new(),
        removed_parts: Vec::new(),
        text_body: None,
        category: None,
        subcategory: None,
        conversation_id: None,
        smart: SmartHashes::default(),
        new_sender: None,
    }
}

fn file(name: &str, bytes: usize) -> Attachment {
    Attachment {
        file_name: name.to_owned(),
        mime_type: "application/octet-stream".to_owned(),
        content_id: None,
        content: Bytes::from(vec![7; bytes]),
    }
}

/// E-mails in the organization, by status.
fn statuses(world: &World) -> Vec<u64> {
    world.server.rows("emails").iter().map(|row| row["statuscode"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn one_request_delivers_and_none_discards() {
    let world = World::connected().await;
    let ann = world.add_user("Ann", "ann@fabrikam.example", true).await.unwrap();
    let crm = world.crm();
    world.server.forget_requests();
    // what a decision asks
    let addresses = [EmailAddress::parse("ann@fabrikam.example").unwrap()];
    assert_eq!(crm.resolve(&addresses).await.unwrap()[0][0].record, ann);
    crm.settings().await.unwrap();
    crm.find_emails(&EmailLookup::TrackingToken("CRM:0001001".to_owned()), 5).await.unwrap();
    let mut email = email(&world, "<m1@x>");
    assert!(!crm.exists(&email.activity_id).await.unwrap());
    assert_eq!(world.server.requests(), Vec::<String>::new());
    email.attachments = vec![file("a.bin", 1000), file("b.bin", 2000)];
    email.parties[1].record = Some(ann);
    assert_eq!(crm.deliver_incoming(email.clone()).await.unwrap(), Delivered::Created);
    let sent = world.server.requests();
    assert_eq!(sent.iter().filter(|request| !request.starts_with("> ")).count(), 1, "{sent:#?}");
    world.server.forget_requests();
    assert_eq!(crm.deliver_incoming(email).await.unwrap(), Delivered::AlreadyThere);
    assert_eq!(world.server.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_answer_after_a_successful_create_doubles_nothing() {
    let world = World::connected().await;
    let crm = world.crm();
    let email = email(&world, "<m1@x>");
    world.server.plan("POST", "$batch", 1, Fault::Lost);
    let error = crm.deliver_incoming(email.clone()).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::Later(_)), "{error}");
    assert_eq!(statuses(&world), [4], "it happened all the same");
    assert_eq!(crm.deliver_incoming(email.clone()).await.unwrap(), Delivered::AlreadyThere);
    assert!(crm.exists(&email.activity_id).await.unwrap());
    assert_eq!(statuses(&world), [4]);
}

#[tokio::test]
async fn half_an_answer_and_a_cut_before_it_are_tried_again() {
    let world = World::connected().await;
    let crm = world.crm();
    for (n, fault) in [Fault::Half(100), Fault::Cut].into_iter().enumerate() {
        let email = email(&world, &format!("<m{n}@x>"));
        world.server.plan("POST", "$batch", 1, fault);
        let error = crm.deliver_incoming(email.clone()).await.unwrap_err();
        assert!(matches!(error.retry(), Retry::Later(_)), "{error}");
        crm.deliver_incoming(email.clone()).await.unwrap();
        assert!(crm.exists(&email.activity_id).await.unwrap());
    }
    assert_eq!(statuses(&world), [4, 4]);
}

#[tokio::test]
async fn another_router_was_faster() {
    let (one, two) = (World::connected().await, World::new().await);
    two.change(|settings| settings.url = one.server.base().parse().unwrap());
    two.reconnect().await.unwrap();
    let email = email(&one, "<m1@x>");
    assert_eq!(one.crm().deliver_incoming(email.clone()).await.unwrap(), Delivered::Created);
    assert_eq!(two.crm().deliver_incoming(email.clone()).await.unwrap(), Delivered::AlreadyThere);
    assert_eq!(statuses(&one), [4]);
}

#[tokio::test]
async fn a_server_that_takes_no_parties_with_patch_gets_them_by_post() {
    let world = World::connected().await;
    world.server.rules(|rules| rules.no_deep_upsert = true);
    let crm = world.crm();
    for n in 0..2 {
        let email = email(&world, &format!("<m{n}@x>"));
        world.server.forget_requests();
        assert_eq!(crm.deliver_incoming(email.clone()).await.unwrap(), Delivered::Created);
        let batches = world.server.requests().iter().filter(|r| *r == "POST $batch").count();
        assert_eq!(batches, 2 - n, "what it refuses is asked once");
    }
    assert_eq!(world.server.rows("activityparties").len(), 4);
}

#[tokio::test]
async fn a_large_mail_that_was_interrupted_is_completed() {
    let world = World::connected().await;
    world.server.set_organization(serde_json::json!({ "maxuploadfilesize": 20_000_000 }));
    let crm = world.crm();
    for (n, no_blocks) in [false, true].into_iter().enumerate() {
        world.server.rules(|rules| rules.no_blocks = no_blocks);
        let mut email = email(&world, &format!("<m{n}@x>"));
        email.attachments = vec![file("large.bin", 9_000_000), file("small.bin", 10)];
        // the second file does not get through
        world.server.plan(
            "POST",
            "activitymimeattachments",
            1,
            Fault::Answer(503, Vec::new(), String::new()),
        );
        let error = crm.deliver_incoming(email.clone()).await.unwrap_err();
        assert!(matches!(error.retry(), Retry::Later(_)), "{error}");
        let id = email.activity_id.to_string();
        assert_eq!(world.server.row("emails", &id).unwrap()["statuscode"], 1, "a draft until it is whole");
        assert_eq!(crm.deliver_incoming(email.clone()).await.unwrap(), Delivered::Created);
        assert_eq!(world.server.row("emails", &id).unwrap()["statuscode"], 4);
        assert_eq!(crm.attachments(&email.activity_id).await.unwrap().len(), 2, "each file once");
    }
}

#[tokio::test]
async fn what_the_decision_spoke_of_may_be_gone() {
    let world = World::connected().await;
    let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
    let crm = world.crm();
    let question = email(&world, "<question@x>");
    crm.deliver_incoming(question.clone()).await.unwrap();
    let mut answer = email(&world, "<answer@x>");
    answer.parties[0].record = Some(bob.clone());
    answer.correlated_activity = Some(question.activity_id);
    world.server.delete("contacts", &bob.id.to_string());
    world.server.delete("emails", &question.activity_id.to_string());
    let error = crm.deliver_incoming(answer.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::Busy, Scope::Message), "{error}");
    assert!(error.to_string().contains("decided about again"), "{error}");
    // and the next decision does not find them
    let addresses = [EmailAddress::parse("bob@contoso.example").unwrap()];
    assert_eq!(crm.resolve(&addresses).await.unwrap(), [vec![]]);
    assert_eq!(crm.find_emails(&EmailLookup::Ids(vec![question.activity_id]), 1).await.unwrap(), []);
    // what nobody ever knew is a mistake, not a race
    answer.correlated_activity = None;
    answer.parties[0].record = Some(RecordRef::new("contact", uuid::Uuid::from_u128(404)));
    let error = crm.deliver_incoming(answer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn errors_of_the_organization_say_whose_they_are() {
    let world = World::connected().await;
    let crm = world.crm();
    let plug_in = Fault::error(400, 0x8004_0265, "ISV code aborted the operation: no mail on Sundays");
    for (fault, kind, scope, word) in [
        (plug_in, ErrorKind::Invalid, Scope::Message, "no mail on Sundays"),
        (
            Fault::error(403, 0x8004_0220, "is missing prvCreateActivity privilege"),
            ErrorKind::Refused,
            Scope::Server,
            "prvCreateActivity",
        ),
        (
            Fault::error(400, 0x8005_e246, "RouterIsDisabled"),
            ErrorKind::Refused,
            Scope::Server,
            "RouterIsDisabled",
        ),
        (
            Fault::Answer(
                403,
                Vec::new(),
                "<html><head><title>Access denied by proxy</title></head></html>".to_owned(),
            ),
            ErrorKind::Refused,
            Scope::Server,
            "Access denied by proxy",
        ),
        (
            Fault::Answer(
                400,
                Vec::new(),
                r#"{"Message":"bad","ExceptionMessage":"why","ErrorCode":-2147220989}"#.to_owned(),
            ),
            ErrorKind::Invalid,
            Scope::Message,
            "bad (why)",
        ),
    ] {
        world.server.plan("> PATCH", "emails", 1, fault.clone());
        world.server.plan("POST", "$batch", 0, fault.clone());
        let in_batch = matches!(&fault, Fault::Answer(_, _, body) if body.starts_with('{'));
        if !in_batch {
            world.server.mend();
            world.server.plan("POST", "$batch", 1, fault);
        }
        let error = crm.deliver_incoming(email(&world, "<m1@x>")).await.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (kind, scope), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.to_string().contains('\n'));
        assert_eq!(statuses(&world), Vec::<u64>::new());
    }
}

/// 11.3: one budget for the identity, and the server's wish is obeyed by all.
#[tokio::test(start_paused = true)]
async fn a_storm_of_throttling_is_waited_out_by_all() {
    let world = World::connected().await;
    let crm = world.crm();
    for seconds in ["5", "20", "60"] {
        world.server.plan("POST", "$batch", 1, Fault::throttled(seconds));
    }
    let start = tokio::time::Instant::now();
    let (one, two) = (email(&world, "<m1@x>"), email(&world, "<m2@x>"));
    let (first, second) = tokio::join!(crm.deliver_incoming(one), crm.deliver_incoming(two));
    let whole: Vec<_> = [first, second].into_iter().filter(Result::is_ok).collect();
    assert!(!whole.is_empty());
    assert!(start.elapsed() >= Duration::from_secs(85), "{:?}", start.elapsed());
    // a wish that is longer than a call may wait goes to the caller
    world.server.mend();
    world.server.plan("POST", "$batch", 1, Fault::throttled("600"));
    world.server.forget_requests();
    let error = crm.deliver_incoming(email(&world, "<m3@x>")).await.unwrap_err();
    assert!(
        matches!(error.retry(), Retry::Later(Some(delay)) if delay > Duration::from_secs(500)),
        "{error}"
    );
    let error = crm.deliver_incoming(email(&world, "<m4@x>")).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::Later(Some(_))), "{error}");
    assert_eq!(world.server.requests(), ["POST $batch"], "nobody asks meanwhile");
}

#[tokio::test(start_paused = true)]
async fn reading_is_repeated_and_a_slow_server_is_given_up() {
    let world = World::connected().await;
    let ann = world.add_user("Ann", "ann@fabrikam.example", true).await.unwrap();
    let crm = world.crm();
    world.server.plan("GET", "systemusers", 2, Fault::Answer(503, Vec::new(), String::new()));
    assert!(crm.mailboxes().await.unwrap().iter().any(|mailbox| mailbox.record == ann));
    world.server.plan("GET", "systemusers", 1, Fault::Cut);
    crm.mailboxes().await.unwrap();
    world.change(|settings| settings.longest_wait = Duration::from_secs(1));
    world.server.plan("POST", "$batch", 1, Fault::Silence);
    let error = crm.deliver_incoming(email(&world, "<m1@x>")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.hint().unwrap().contains("OperationTimeout"), "{error}");
}

#[tokio::test]
async fn changes_that_cannot_be_asked_for_any_more_are_read_anew() {
    let world = World::connected().await;
    let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
    world.server.delete("contacts", &bob.id.to_string());
    world
        .server
        .create("contacts", serde_json::json!({ "lastname": "Zoe", "emailaddress1": "zoe@x.example" }));
    world.server.expire_change_tokens();
    world.client().refresh().await.unwrap();
    let addresses = ["bob@contoso.example", "zoe@x.example"].map(|at| EmailAddress::parse(at).unwrap());
    let found = world.crm().resolve(&addresses).await.unwrap();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_is_renewed_once() {
    use async_trait::async_trait;
    use email_router_auth::{CredentialError, Credentials};
    use email_router_crm::dataverse::LoginSource;
    use email_router_http::{Login, Scheme};
    use email_router_testkit::dataverse::TOKEN;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The first token is refused, each further one is good.
    #[derive(Debug, Default)]
    struct Renewing(AtomicUsize);
    #[async_trait]
    impl LoginSource for Renewing {
        async fn login(&self) -> Result<Login, CredentialError> {
            let token = if self.0.load(Ordering::SeqCst) == 1 { "ended" } else { TOKEN };
            Ok(Login { scheme: Scheme::Bearer, credentials: Credentials::bearer("router", token.into()) })
        }
        fn refused(&self, _: &Login) -> bool {
            self.0.fetch_add(1, Ordering::SeqCst);
            true
        }
    }
    let login = Arc::new(Renewing::default());
    let world = World::new().await;
    world.change(|settings| settings.login = login.clone());
    world.reconnect().await.unwrap();
    login.0.store(1, Ordering::SeqCst); // it ends now
    assert_eq!(world.crm().deliver_incoming(email(&world, "<m1@x>")).await.unwrap(), Delivered::Created);
    assert_eq!(login.0.load(Ordering::SeqCst), 2, "one refusal, one renewal");
    // who is refused for good hears what to do, and no secret is shown
    let world = World::new().await;
    world.change(|settings| {
        settings.login = Arc::new(Login {
            scheme: Scheme::Bearer,
            credentials: Credentials::bearer("router", "s3cr3t".into()),
        });
    });
    let error = world.reconnect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error.hint().unwrap().contains("credentials") && !format!("{error} {error:?}").contains("s3cr3t")
    );
}

/// The server's clock is an hour ahead of ours, or behind.
#[tokio::test]
async fn clocks_may_differ() {
    for ahead in [true, false] {
        let world = World::connected().await;
        let ours = world.clock.clone();
        world.server.set_clock(move || {
            use email_router_model::Clock as _;
            let hour = Duration::from_secs(3600);
            let now = ours.now();
            let theirs = if ahead { now.checked_add(hour) } else { now.checked_sub(hour) };
            theirs.unwrap().to_string()
        });
        let ann = world.add_user("Ann", "ann@fabrikam.example", true).await.unwrap();
        let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
        let id = world.send(&Seed::new(&ann, &bob, "Quote")).await.unwrap();
        let query = PendingQuery {
            senders: vec![ann],
            per_sender: 10,
            now: world.now(),
            stale_after: Duration::from_secs(1800),
        };
        let crm = world.crm();
        let listed = crm.pending_outgoing(&query).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(crm.claim(&listed[0]).await.unwrap(), Claim::Taken { attempt: 1 });
        crm.finish(&id, &SendOutcome::Sent { at: world.now(), refused: Vec::new() }).await.unwrap();
        assert_eq!(world.status(id).await.unwrap(), EmailStatus::Sent);
        let question = email(&world, "<m1@x>");
        crm.deliver_incoming(question.clone()).await.unwrap();
        world.client().refresh().await.unwrap();
        assert_eq!(
            crm.find_emails(&EmailLookup::Ids(vec![question.activity_id, id]), 9).await.unwrap().len(),
            2
        );
    }
}

#[tokio::test]
async fn the_access_test_names_what_is_missing() {
    let world = World::new().await;
    let probe = async || {
        let settings = world.settings.lock().unwrap().clone();
        email_router_crm::dataverse::DataverseCrm::probe(&settings).await
    };
    let report = probe().await;
    assert!(report.passed(), "{report:#?}");
    assert!(!world.folder.path().join("mirror.db").exists(), "it leaves nothing behind");
    world.server.deny("prvCreateActivity");
    world.server.deny("prvReadQueueItem");
    world.change(|settings| settings.note_column = Some("new_nothing".to_owned()));
    let ann = world.server.add_user("Ann", "ann@fabrikam.example", false);
    world.server.set_organization(serde_json::json!({ "requireapprovalforuseremail": true }));
    world.server.create(
        "mailboxes",
        serde_json::json!({
            "name": "Ann", "isforwardmailbox": false, "enabledforincomingemail": true, "enabledforoutgoingemail": true,
            "incomingemaildeliverymethod": 2, "outgoingemaildeliverymethod": 2, "statecode": 0,
            "regardingobjectid_systemuser@odata.bind": format!("/systemusers({ann})"),
        }),
    );
    let report = probe().await;
    let failed: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.state == CheckState::Failed)
        .map(|check| check.text.as_str())
        .collect();
    for word in ["prvCreateActivity, prvReadQueueItem", "new_nothing", "synchronization too", "not: Ann"] {
        assert!(failed.iter().any(|text| text.contains(word)), "{word} in {failed:#?}");
    }
    world.change(|settings| settings.unique_name = Some("fabrikam".to_owned()));
    let error = world.reconnect().await.unwrap_err();
    assert!(
        error.to_string().contains("\"contoso\"") && error.to_string().contains("\"fabrikam\""),
        "{error}"
    );
}
