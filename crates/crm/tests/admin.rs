//! Administration: what `email-router crm` does.
#![allow(clippy::unwrap_used)] // helpers of tests, which may panic
#![cfg(feature = "embedded")]

use std::sync::{Arc, Mutex};

use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::embedded::admin::{
    Admin, Decision, EmailFilter, ImportOptions, NewEmail, Recipient, RecordFilter, ResolvedParties, fields,
};
use email_router_crm::{
    Attachment, CrmClient as _, EmailStatus, Error, ErrorKind, ParticipationType, PendingQuery, Priority,
    SendOutcome,
};
use email_router_model::{
    ActivityId, Classified as _, Clock as _, Direction, EmailAddress, ManualClock, SeededEntropy,
};

struct Fixture {
    crm: EmbeddedCrm,
    admin: Admin,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn fresh() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()));
    let crm = EmbeddedCrm::open(folder.path().join("crm.db"), clock.clone(), Arc::new(SeededEntropy::new(1)))
        .unwrap();
    Fixture { admin: crm.admin(), crm, clock, _folder: folder }
}

fn at(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

/// Kind, message and hint.
fn told<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string(), error.hint().unwrap_or_default().to_owned())
}

impl Fixture {
    async fn people(&self) {
        let ann = [("fullname", "Ann Adams"), ("internalemailaddress", "Ann@Fabrikam.example")];
        self.admin.add("systemuser", &fields(ann)).await.unwrap();
        let bob = [
            ("fullname", "Bob"),
            ("emailaddress1", "bob@contoso.example"),
            ("ownerid", "ann@fabrikam.example"),
        ];
        self.admin.add("contact", &fields(bob)).await.unwrap();
    }

    async fn import(&self, table: &str, text: &[u8], options: ImportOptions) -> Result<(u64, u64), Error> {
        let report = self.admin.import_csv(table, text, "people.csv", options, |_| {}).await?;
        Ok((report.added, report.updated))
    }

    async fn send(&self, new: &NewEmail) -> ActivityId {
        self.admin.create_outgoing(new).await.unwrap().activity_id
    }

    /// Takes everything of Ann that waits.
    async fn claim_all(&self) -> usize {
        let ann = self.admin.show("systemuser", "ann@fabrikam.example").await.unwrap().reference();
        let query = PendingQuery {
            senders: vec![ann],
            per_sender: 100,
            now: self.clock.now(),
            stale_after: std::time::Duration::from_secs(1800),
        };
        let listed = self.crm.pending_outgoing(&query).await.unwrap();
        for email in &listed {
            self.crm.claim(email).await.unwrap();
        }
        listed.len()
    }
}

fn note() -> NewEmail {
    NewEmail::new(at("ann@fabrikam.example"), at("bob@contoso.example"), "Quote", "body")
}

#[tokio::test]
async fn records_of_every_table() {
    let f = fresh();
    f.people().await;
    let tables: Vec<_> = f.admin.tables().await.unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(tables, ["systemuser", "queue", "mailbox", "contact", "account", "lead", "new_supplier"]);
    for (table, name, address) in [
        ("queue", "name", "emailaddress"),
        ("mailbox", "name", "emailaddress"),
        ("account", "name", "emailaddress2"),
        ("lead", "fullname", "emailaddress3"),
        ("new_supplier", "new_name", "emailaddress"),
    ] {
        let place = format!("{table}@x.example");
        let added = f.admin.add(table, &fields([(name, "First"), (address, &place)])).await.unwrap();
        assert_eq!((added.name.as_str(), added.fields[address].as_str()), ("First", Some(place.as_str())));
        let id = added.id.to_string();
        assert_eq!(f.admin.show(table, &id).await.unwrap(), added);
        assert_eq!(f.admin.show(table, &place.to_uppercase()).await.unwrap(), added);
        let moved = format!("moved.{place}");
        let changed =
            f.admin.update(table, &place, &fields([(name, "Second"), (address, &moved)])).await.unwrap();
        assert_eq!((changed.id, changed.name.as_str()), (added.id, "Second"));
        assert!(f.admin.show(table, &place).await.is_err(), "{table}: the old address is out of the index");
        let resolved = f.crm.resolve(&[at(&moved)]).await.unwrap();
        // a forward mailbox is no party
        assert_eq!(resolved[0].len(), usize::from(table != "mailbox"), "{table}");
        let filter = RecordFilter { text: Some("MOVED".to_owned()), ..RecordFilter::default() };
        assert_eq!(f.admin.list(table, &filter).await.unwrap().len(), 1, "{table}");
        f.admin.delete(table, &id).await.unwrap();
        assert_eq!(f.admin.list(table, &RecordFilter::default()).await.unwrap(), []);
        assert_eq!(f.crm.resolve(&[at(&moved)]).await.unwrap()[0], []);
    }
}

#[tokio::test]
async fn mistakes_in_records_are_named() {
    let f = fresh();
    f.people().await;
    let add = async |table: &str, pairs: &[(&str, &str)]| {
        told(f.admin.add(table, &fields(pairs.iter().copied())).await)
    };
    let (kind, message, hint) = add("kontakt", &[]).await;
    assert_eq!((kind, message.as_str()), (ErrorKind::NotFound, "there is no table \"kontakt\""));
    assert!(hint.contains("contact, account, lead, new_supplier"), "{hint}");
    let (kind, message, hint) = add("contact", &[("fullname", "X"), ("email", "a@b.example")]).await;
    assert_eq!((kind, message.as_str()), (ErrorKind::NotFound, "the table contact has no column \"email\""));
    assert!(hint.contains("emailaddress1"), "{hint}");
    for (pairs, expected) in [
        (&[("emailaddress1", "a@b.example")][..], "column fullname: may not be missing"),
        (&[("fullname", " ")], "column fullname: may not be empty"),
        (
            &[("fullname", "X"), ("emailaddress1", "nonsense")],
            "column emailaddress1: \"nonsense\" is not an address of the form local-part@domain",
        ),
        (
            &[("fullname", "X"), ("statecode", "2")],
            "column statecode: \"2\" is not one of: 0 active, 1 inactive",
        ),
        (
            &[("fullname", "X"), ("ownerid", "bob@contoso.example")],
            "column ownerid: no user has the id or address \"bob@contoso.example\"",
        ),
    ] {
        assert_eq!(add("contact", pairs).await.1, expected);
    }
    assert_eq!(
        f.admin.list("contact", &RecordFilter::default()).await.unwrap().len(),
        1,
        "nothing was added"
    );
    let (_, message, _) = told(f.admin.create_table("contact; DROP TABLE email").await);
    assert!(message.contains("cannot be the name of a table"), "{message}");
    f.send(&note()).await;
    let (_, message, _) = told(f.admin.delete("systemuser", "ann@fabrikam.example").await);
    assert!(message.ends_with("cannot be deleted: e-mails of it wait to be sent"), "{message}");
}

#[tokio::test]
async fn a_user_has_a_default_queue_as_long_as_it_is_there() {
    let f = fresh();
    f.people().await;
    let queue = fields([("name", "Support"), ("emailaddress", "support@fabrikam.example")]);
    let queue = f.admin.add("queue", &queue).await.unwrap();
    let default = async || {
        let all = f.crm.mailboxes().await.unwrap();
        all.into_iter().find(|m| m.record.table == "systemuser").unwrap().default_queue
    };
    let set = async |value: &str| {
        f.admin.update("systemuser", "ann@fabrikam.example", &fields([("queueid", value)])).await
    };
    assert_eq!(default().await, None);
    let (kind, message, _) = told(set("ann@fabrikam.example").await);
    let expected = "column queueid: no queue has the id or address \"ann@fabrikam.example\"";
    assert_eq!((kind, message.as_str()), (ErrorKind::Invalid, expected));
    for value in [queue.id.to_string().as_str(), "Support@fabrikam.example"] {
        set(value).await.unwrap();
        assert_eq!(default().await, Some(queue.reference()), "{value}");
        set("").await.unwrap();
        assert_eq!(default().await, None);
    }
    set("support@fabrikam.example").await.unwrap();
    f.admin.delete("queue", "support@fabrikam.example").await.unwrap();
    assert_eq!(default().await, None);
}

#[tokio::test]
async fn an_administrator_names_a_table() {
    let f = fresh();
    assert_eq!(f.admin.create_table("cr1a_vendor").await.unwrap().name_column, "cr1a_name");
    f.admin.create_table("cr1a_vendor").await.unwrap();
    let vendor = fields([("cr1a_name", "V"), ("emailaddress", "v@x.example")]);
    let vendor = f.admin.add("cr1a_vendor", &vendor).await.unwrap();
    let found = f.crm.resolve(&[at("v@x.example")]).await.unwrap();
    assert_eq!((&found[0][0].record, found[0][0].active), (&vendor.reference(), true));
}

#[tokio::test]
async fn csv_of_every_kind_of_program() {
    let f = fresh();
    f.people().await;
    let plain = b"fullname,emailaddress1\nCarl,carl@x.example\n\"Dee, Dr.\",dee@x.example\n";
    assert_eq!(f.import("contact", plain, ImportOptions::default()).await.unwrap(), (2, 0));
    let bom =
        "\u{feff}FullName;EmailAddress1;OwnerId\r\nÉmile;emile@x.example;ann@fabrikam.example\r\n".as_bytes();
    assert_eq!(f.import("lead", bom, ImportOptions::default()).await.unwrap(), (1, 0));
    let lead = f.admin.show("lead", "emile@x.example").await.unwrap();
    assert_eq!((lead.name.as_str(), lead.fields["ownerid"].is_string()), ("Émile", true));
    // the key finds a record, on request the address too
    let carl = f.admin.show("contact", "carl@x.example").await.unwrap();
    let keyed = format!("contactid\tfullname\n{}\tCarl II\n", carl.id);
    assert_eq!(f.import("contact", keyed.as_bytes(), ImportOptions::default()).await.unwrap(), (0, 1));
    let update = ImportOptions { update_existing: true, dry_run: false };
    let again = b"fullname,emailaddress1\nCarl III,CARL@x.example\nNew,new@x.example\n";
    assert_eq!(f.import("contact", again, update).await.unwrap(), (1, 1));
    assert_eq!(f.admin.show("contact", "carl@x.example").await.unwrap().name, "Carl III");
    // a dry run says the same and writes nothing
    let before = f.admin.statistics().await.unwrap();
    let dry = ImportOptions { dry_run: true, ..update };
    assert_eq!(f.import("contact", again, dry).await.unwrap(), (0, 2));
    assert_eq!(f.import("contact", b"fullname\nZoe\n", dry).await.unwrap(), (1, 0));
    assert_eq!(f.admin.statistics().await.unwrap(), before);
}

#[tokio::test]
async fn csv_mistakes_have_file_line_and_column_and_nothing_is_written() {
    let f = fresh();
    f.people().await;
    let many =
        b"fullname,emailaddress1\nGood,good@x.example\nBad,nonsense\n,empty@x.example\nThree,a@b.example,c\n";
    let (kind, message, hint) = told(f.import("contact", many, ImportOptions::default()).await);
    assert_eq!(kind, ErrorKind::Invalid);
    assert_eq!(
        message,
        "people.csv, line 3, column emailaddress1: \"nonsense\" is not an address of the form local-part@domain (and 2 more mistakes)"
    );
    assert!(hint.contains("people.csv, line 4, column fullname: may not be empty"), "{hint}");
    assert!(hint.contains("people.csv, line 5, 3 fields; the header has 2"), "{hint}");
    for (text, expected) in [
        (
            &b"name,emailaddress1\n"[..],
            "people.csv, line 1, column 1: the table contact has no column \"name\"",
        ),
        (b"fullname,FULLNAME\n", "people.csv, line 1, column 2: fullname stands there twice"),
        (b"emailaddress1\na@b.example\n", "people.csv, line 2, column fullname: may not be missing"),
        (b"contactid,fullname\nx,y\n", "people.csv, line 2, column contactid: \"x\" is not an id"),
        (b"fullname\nok\n\xff\xfe\n", "people.csv, line 3, column 1: the text is not UTF-8"),
    ] {
        assert_eq!(told(f.import("contact", text, ImportOptions::default()).await).1, expected);
    }
    assert_eq!(f.admin.list("contact", &RecordFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn csv_tells_how_far_it_is() {
    let f = fresh();
    let mut text = String::from("fullname,emailaddress1\n");
    for n in 0..1200 {
        text.push_str(&format!("P{n},p{n}@x.example\n"));
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let progress = move |p: email_router_crm::embedded::admin::ImportProgress| told.lock().unwrap().push(p);
    f.admin.import_csv("contact", text.as_bytes(), "x", ImportOptions::default(), progress).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(|p| p.rows).collect::<Vec<_>>(), [500, 1000, 1200]);
    assert_eq!(seen[2].bytes, seen[2].total_bytes);
}

#[tokio::test]
async fn settings_by_their_names() {
    let f = fresh();
    for (name, value, stored) in [
        ("trackingprefix", "KAW", serde_json::json!("KAW")),
        ("IGNOREINTERNALEMAIL", "yes", serde_json::json!(true)),
        ("maximumsubjectlengthonmailserver", "400", serde_json::json!(400)),
        ("blockedattachments", ".EXE; js", serde_json::json!(["exe", "js"])),
        ("SSSForceFilteringMethodForUserMailboxes", "-1", serde_json::json!(-1)),
    ] {
        assert_eq!(f.admin.set_setting(name, value).await.unwrap().value, stored, "{name}");
        assert_eq!(f.admin.setting(name).await.unwrap().value, stored, "{name}");
    }
    let settings = f.crm.settings().await.unwrap();
    assert_eq!(
        (settings.tracking_prefix.as_str(), &settings.tracking_prefix_history[..]),
        ("KAW", &["CRM:".to_owned()][..])
    );
    for (name, value, expected) in [
        ("trackingtokeniddigits", "11", "trackingtokeniddigits is 11; it must be 1 to 10"),
        (
            "maximumsubjectlengthonmailserver",
            "254",
            "MaximumSubjectLengthOnMailServer is 254; it must be 255 to 400",
        ),
        ("maxuploadfilesize", "131072001", "maxuploadfilesize is 131072001; it must be 1 to 131072000"),
        ("ignoreinternalemail", "perhaps", "ignoreinternalemail = \"perhaps\": give true or false"),
        ("hashmaxcount", "x", "hashmaxcount = \"x\": give a whole number"),
    ] {
        assert_eq!(told(f.admin.set_setting(name, value).await).1, expected);
    }
    assert!(
        told(f.admin.set_setting("trackingtokeniddigits", "-1").await)
            .1
            .contains("not a value of this setting")
    );
    let (_, message, _) = told(f.admin.set_setting("hashfilterkeywords", "^(RE:").await);
    assert!(
        message.starts_with("hashfilterkeywords = \"^(RE:\": hashfilterkeywords cannot be used"),
        "{message}"
    );
    let (kind, message, hint) = told(f.admin.set_setting("prefix", "x").await);
    assert_eq!((kind, message.as_str()), (ErrorKind::NotFound, "the organization has no setting \"prefix\""));
    assert!(hint.contains("trackingprefix"), "{hint}");
    assert_eq!(f.crm.settings().await.unwrap(), settings);
    let known = serde_json::to_value(&settings).unwrap().as_object().unwrap().len();
    assert_eq!(f.admin.settings().await.unwrap().len(), known);
}

#[tokio::test]
async fn an_outgoing_email_is_checked_and_shown() {
    let f = fresh();
    f.people().await;
    let mut new = note();
    new.cc = vec![Recipient::Address(at("ann@fabrikam.example"), Some("Boss".to_owned()))];
    new.html = true;
    new.priority = Priority::High;
    new.attachments = vec![Attachment {
        file_name: "offer.pdf".to_owned(),
        mime_type: "application/pdf".to_owned(),
        content_id: None,
        content: "pdf".into(),
    }];
    let bob = f.admin.show("contact", "bob@contoso.example").await.unwrap();
    new.regarding = Some(bob.reference());
    let created = f.admin.create_outgoing(&new).await.unwrap();
    assert_eq!(created.warnings, Vec::<String>::new());
    let shown = f.admin.email(created.activity_id).await.unwrap();
    assert_eq!((shown.row.status, shown.row.direction), (EmailStatus::PendingSend, Direction::Outgoing));
    assert_eq!(
        (shown.row.sender.as_deref(), shown.row.to.as_deref()),
        (Some("Ann@Fabrikam.example"), Some("bob@contoso.example;"))
    );
    assert_eq!(
        (shown.body_mime_type.as_str(), shown.row.regarding.as_ref()),
        ("text/html", Some(&bob.reference()))
    );
    assert_eq!(
        (shown.parties.len(), shown.attachments[0].size, shown.parties[2].name.as_deref()),
        (3, 3, Some("Boss"))
    );
    assert_eq!(f.admin.attachment(created.activity_id, 1).await.unwrap(), new.attachments[0]);
    assert!(serde_json::to_value(&shown).unwrap()["subject"].is_string());
    let by_party = EmailFilter { party: Some(bob.reference()), ..EmailFilter::default() };
    assert_eq!(f.admin.emails(&by_party).await.unwrap().len(), 1);
    for (change, expected) in [
        (
            NewEmail { to: vec![at("nobody@x.example").into()], ..note() },
            "no record has the address nobody@x.example",
        ),
        (NewEmail { to: vec![], ..note() }, "the e-mail has no recipient"),
        (
            NewEmail { from: at("bob@contoso.example").into(), ..note() },
            "the sender bob@contoso.example is no enabled user and no queue",
        ),
        (
            NewEmail { subject: "a\r\nBcc: x@y".to_owned(), ..note() },
            "the subject contains a line end or another control character",
        ),
        (
            NewEmail { subject: "x".repeat(801), ..note() },
            "the subject has 801 characters; at most 800 are allowed",
        ),
    ] {
        assert_eq!(told(f.admin.create_outgoing(&change).await).1, expected);
    }
    for (name, size, expected) in [
        ("a.EXE", 1, "the attachment \"a.EXE\" is blocked: the organization does not allow .exe"),
        ("a.exe. ", 1, "the attachment \"a.exe. \" is blocked: the organization does not allow .exe"),
        (
            "big.pdf",
            5_242_881,
            "the attachment \"big.pdf\" has 5242881 bytes; the organization allows 5242880",
        ),
        ("../a", 1, "the attachment \"../a\" needs a file name of 1 to 255 characters without a path"),
    ] {
        let mut new = note();
        new.attachments = vec![Attachment {
            file_name: name.to_owned(),
            mime_type: "application/octet-stream".to_owned(),
            content_id: None,
            content: vec![0; size].into(),
        }];
        assert_eq!(told(f.admin.create_outgoing(&new).await).1, expected);
    }
    // with the switch on an address that no record has will do
    f.admin.set_setting("AllowUnresolvedPartiesOnEmailSend", "true").await.unwrap();
    let id = f.send(&NewEmail { to: vec![at("nobody@x.example").into()], ..note() }).await;
    assert_eq!(f.crm.outgoing_email(&id).await.unwrap().parties[1].address, Some(at("nobody@x.example")));
    // and off again it can no longer be sent
    f.admin.set_setting("allowunresolvedpartiesonemailsend", "false").await.unwrap();
    let (kind, message, _) = told(f.crm.outgoing_email(&id).await);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.contains("nobody@x.example, which no record has"), "{message}");
    // a sender whom the router does not serve is warned about
    f.admin
        .update("systemuser", "ann@fabrikam.example", &fields([("outgoingemaildeliverymethod", "outlook")]))
        .await
        .unwrap();
    let created = f.admin.create_outgoing(&note()).await.unwrap();
    assert!(created.warnings[0].contains("is not the router"), "{:?}", created.warnings);
}

#[tokio::test]
async fn a_person_settles_what_is_in_doubt_or_failed() {
    let f = fresh();
    f.people().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(f.send(&note()).await);
    }
    assert_eq!(f.claim_all().await, 4);
    let doubt = SendOutcome::InDoubt { reason: "cut after DATA".to_owned() };
    for id in &ids[..3] {
        f.crm.finish(id, &doubt).await.unwrap();
    }
    f.crm.finish(&ids[3], &SendOutcome::Failed { reason: "550 no".to_owned() }).await.unwrap();
    let listed = f.admin.in_doubt().await.unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|e| e.in_doubt && e.report.as_deref() == Some("cut after DATA")));
    for (id, decision, status) in [
        (ids[0], Decision::Sent, EmailStatus::Sent),
        (ids[1], Decision::SendAgain, EmailStatus::PendingSend),
        (ids[2], Decision::Failed, EmailStatus::Failed),
    ] {
        f.admin.decide(id, decision).await.unwrap();
        assert_eq!(f.admin.email(id).await.unwrap().row.status, status);
        assert!(told(f.admin.decide(id, decision).await).1.ends_with("is not in doubt"));
    }
    assert_eq!(f.admin.in_doubt().await.unwrap(), []);
    assert_eq!(f.claim_all().await, 1, "the one to be sent again");
    assert_eq!(f.admin.retry_failed(Some(ids[3])).await.unwrap(), 1);
    assert!(told(f.admin.retry_failed(Some(ids[3])).await).1.ends_with("has not failed"));
    assert_eq!(f.admin.retry_failed(None).await.unwrap(), 1);
    let waiting = EmailFilter { status: Some(EmailStatus::PendingSend), ..EmailFilter::default() };
    assert_eq!(f.admin.emails(&waiting).await.unwrap().len(), 2);
    f.admin.cancel(ids[3]).await.unwrap();
    f.admin.delete_email(ids[0]).await.unwrap();
    assert!(told(f.admin.cancel(ids[1]).await).1.ends_with("can no longer be canceled"));
    // the router says late what became of them: nobody is surprised
    f.crm.finish(&ids[0], &doubt).await.unwrap();
    f.crm.finish(&ids[3], &SendOutcome::Failed { reason: String::new() }).await.unwrap();
    assert_eq!(f.admin.email(ids[3]).await.unwrap().row.status, EmailStatus::Canceled);
    let statistics = f.admin.statistics().await.unwrap();
    assert_eq!((statistics.deleted, statistics.in_doubt, statistics.records["contact"]), (1, 0, 1));
    let counts: Vec<_> = statistics.outgoing.iter().map(|(k, n)| (k.as_str(), *n)).collect();
    assert_eq!(counts, [("canceled", 1), ("pending_send", 1), ("sending", 1)]);
}

/// An e-mail from an address that no record has.
fn from_stranger(crm: &EmbeddedCrm, n: u32) -> email_router_crm::IncomingEmail {
    let identity = format!("<s{n}@x>");
    let party = |participation, at: &str| email_router_crm::Party {
        participation,
        record: None,
        address: Some(at.parse().unwrap()),
        name: Some("Zoe".to_owned()),
    };
    email_router_crm::IncomingEmail {
        activity_id: ActivityId::derive(&crm.organization_id(), Direction::Incoming, &identity),
        message_id: email_router_model::MessageId::parse(&identity),
        in_reply_to: None,
        references: Vec::new(),
        conversation_index: None,
        subject: "Hello".to_owned(),
        body: "<p>hello</p>".to_owned(),
        body_mime_type: "text/html".to_owned(),
        parties: vec![
            party(ParticipationType::Sender, "Zoe@strange.example"),
            party(ParticipationType::Cc, "zoe@STRANGE.example"),
            party(ParticipationType::To, "other@strange.example"),
        ],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: email_router_crm::CorrelationMethod::None,
        tracking_token: None,
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: None,
        is_duplicate_sender_unresolved: true,
        received_on: None,
        sent_on: None,
        priority: Priority::Normal,
        attachments: Vec::new(),
        removed_parts: Vec::new(),
        text_body: Some("hello".to_owned()),
        category: Some("automatic: auto-replied".to_owned()),
        subcategory: Some("S/MIME signed".to_owned()),
        conversation_id: Some("AAQkAD0=".to_owned()),
        smart: email_router_crm::SmartHashes::default(),
        new_sender: None,
    }
}

#[tokio::test]
async fn everything_of_a_received_email_is_shown() {
    let f = fresh();
    let email = from_stranger(&f.crm, 1);
    f.crm.deliver_incoming(email.clone()).await.unwrap();
    let shown = f.admin.email(email.activity_id).await.unwrap();
    assert_eq!(
        (shown.text_body, shown.category, shown.subcategory, shown.conversation_id, shown.conversation_index),
        (email.text_body, email.category, email.subcategory, email.conversation_id, None)
    );
}

#[tokio::test]
async fn a_party_is_resolved_here_and_elsewhere_when_asked() {
    let f = fresh();
    f.people().await;
    let bob = f.admin.show("contact", "bob@contoso.example").await.unwrap().reference();
    let id = |n| from_stranger(&f.crm, n).activity_id;
    // more than one transaction takes
    for n in 0..400 {
        f.crm.deliver_incoming(from_stranger(&f.crm, n)).await.unwrap();
    }
    let zoe = at("ZOE@strange.example");
    let open = async |n| {
        let parties = f.admin.email(id(n)).await.unwrap().parties;
        parties.iter().filter(|p| p.record.is_none()).count()
    };
    let told_off = told(f.admin.resolve_party(id(0), &at("who@strange.example"), &bob).await);
    assert_eq!(told_off.0, ErrorKind::NotFound);
    assert!(told_off.2.contains("other@strange.example"), "{told_off:?}");
    let nobody = email_router_model::RecordRef::new("contact", uuid::Uuid::from_u128(404));
    assert_eq!(told(f.admin.resolve_party(id(0), &zoe, &nobody).await).0, ErrorKind::NotFound);
    let case = email_router_model::RecordRef::new("incident", uuid::Uuid::from_u128(404));
    assert_eq!(told(f.admin.resolve_party(id(0), &zoe, &case).await).0, ErrorKind::NotFound);
    assert_eq!(told(f.admin.resolve_party(id(9999), &zoe, &bob).await).0, ErrorKind::NotFound);
    assert_eq!((open(0).await, open(1).await), (3, 3), "what failed changed nothing");

    let done = f.admin.resolve_party(id(0), &zoe, &bob).await.unwrap();
    assert_eq!(done, ResolvedParties { here: 2, elsewhere: 0 });
    assert_eq!((open(0).await, open(1).await), (1, 3));
    let shown = f.admin.email(id(0)).await.unwrap();
    assert_eq!(
        (shown.parties[0].record.as_ref(), shown.parties[0].name.as_deref()),
        (Some(&bob), Some("Zoe"))
    );
    assert_eq!(
        shown.parties[0].address.as_ref().unwrap().as_str(),
        "Zoe@strange.example",
        "as it was written"
    );
    assert_eq!(told(f.admin.resolve_party(id(0), &zoe, &bob).await).0, ErrorKind::NotFound);

    f.admin.set_setting("resolvesimilarunresolvedemailaddress", "true").await.unwrap();
    let done = f.admin.resolve_party(id(1), &zoe, &bob).await.unwrap();
    assert_eq!(done, ResolvedParties { here: 2, elsewhere: 796 });
    for n in [1, 2, 399] {
        assert_eq!(open(n).await, 1, "{n}");
    }
    // what was interrupted is ended by the same call
    f.crm.deliver_incoming(from_stranger(&f.crm, 500)).await.unwrap();
    let done = f.admin.resolve_party(id(1), &zoe, &bob).await.unwrap();
    assert_eq!(done, ResolvedParties { here: 0, elsewhere: 2 });
    let filter = EmailFilter { party: Some(bob), limit: 1000, ..EmailFilter::default() };
    assert_eq!(f.admin.emails(&filter).await.unwrap().len(), 401);
}

#[tokio::test]
async fn new_settings_take_their_choices_lists_and_ranges() {
    let f = fresh();
    let set = async |name: &str, value: &str| f.admin.set_setting(name, value).await;
    assert_eq!(set("forgedreference", " Refuse").await.unwrap().value, "refuse");
    assert_eq!(set("CreateUnknownSender", "LEAD").await.unwrap().value, "lead");
    assert_eq!(set("automaticmail", "discard").await.unwrap().choices.unwrap().len(), 3);
    let servers = set("trustedauthservids", "MX.example.com; mail.example.com").await.unwrap();
    assert_eq!(servers.value, serde_json::json!(["mx.example.com", "mail.example.com"]));
    assert_eq!(set("looplimitpersender", "0").await.unwrap().value, 0);
    for (name, value, says) in [
        ("forgedreference", "maybe", "give one of accept, weak, refuse"),
        ("createunknownsender", "account", "give one of none, contact, lead"),
        ("deliveryreports", "", "give one of track, track_without_smart_matching, discard"),
        ("trustedauthservids", "mx example", "not the name of a mail server"),
        ("smartmatchingwindowdays", "0", "1 to 3650"),
        ("loopwindowminutes", "1441", "1 to 1440"),
        ("looplimitperpair", "1000001", "0 to 1000000"),
        ("looplimitperrecord", "-1", "looplimitperrecord"),
        ("plusaddressing", "perhaps", "give true or false"),
    ] {
        let (kind, message, _) = told(set(name, value).await);
        assert!(kind == ErrorKind::Invalid && message.contains(says), "{name}={value}: {message}");
    }
    let many = "x;".repeat(1001);
    assert!(told(set("blockedattachments", &many).await).1.contains("at most 1000"));
}

/// What another system sent can be answered with a subject alone.
#[tokio::test]
async fn imported_history_is_matched_by_its_subject() {
    let f = fresh();
    f.people().await;
    let row = "activityid,statuscode,from,to,subject,createdon\n\
               00000000-0000-0000-0000-000000000001,3,ann@fabrikam.example,bob@contoso.example,Garden party in May,2026-02-20T10:00:00Z\n\
               00000000-0000-0000-0000-000000000002,6,ann@fabrikam.example,bob@contoso.example,Garden party in May,\n";
    f.admin.import_emails_csv(row.as_bytes(), "sent.csv", false).await.unwrap();
    let settings = f.crm.settings().await.unwrap();
    let people = [at("Bob@contoso.example"), at("ann@fabrikam.example")];
    let query = email_router_crm::SmartQuery {
        hashes: email_router_crm::smart::SmartHasher::new(&settings).hashes("Garden party in May", &people),
        delta: 0,
        min_addresses: 2,
        not_before: "2026-02-01T00:00:00Z".parse().unwrap(),
    };
    let found = f.crm.find_emails(&email_router_crm::EmailLookup::Smart(query), 9).await.unwrap();
    let ids: Vec<u128> = found.iter().map(|e| e.activity_id.as_uuid().as_u128()).collect();
    assert_eq!(ids, [1], "what waits is matched once it is sent");
}
