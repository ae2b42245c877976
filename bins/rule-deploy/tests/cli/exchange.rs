//! Plan, apply, verify and remove by Exchange Web Services.

use email_router_testkit::ews::{EwsOptions, EwsServer, Mishap};
use serde_json::{Value, json};

use crate::support::{FORWARD, NAME, World, exchange, exchange_server, exchange_server_with};

const ANN: &str = "ann@contoso.test";
const SUPPORT: &str = "support@contoso.test";

/// The content of a rule that forwards.
fn rule(id: &str, name: &str, priority: u32, enabled: bool, to: &str) -> String {
    format!(
        "<t:RuleId>{id}</t:RuleId><t:DisplayName>{name}</t:DisplayName><t:Priority>{priority}</t:Priority><t:IsEnabled>{enabled}</t:IsEnabled>\
         <t:Actions><t:ForwardAsAttachmentToRecipients><t:Address><t:EmailAddress>{to}</t:EmailAddress></t:Address></t:ForwardAsAttachmentToRecipients></t:Actions>"
    )
}

/// A rule of Ann's own.
fn foreign(server: &EwsServer) -> String {
    server.add_rule(
        ANN,
        "<t:RuleId>own</t:RuleId><t:DisplayName>Newsletters &amp; such</t:DisplayName><t:Priority>1</t:Priority><t:IsEnabled>true</t:IsEnabled>\
         <t:Conditions><t:ContainsSubjectStrings><t:String>news</t:String></t:ContainsSubjectStrings></t:Conditions>\
         <t:Actions><t:Delete>true</t:Delete></t:Actions>",
    );
    server.rules(ANN)[0].clone()
}

fn changes(server: &EwsServer) -> usize {
    server.heard().iter().filter(|heard| heard.operation == "UpdateInboxRules").count()
}

/// What a row tells in JSON where nothing went wrong.
fn outcome(status: &str, state: &str, changes: Value, present: &[&str]) -> Value {
    json!({"status": status, "state": state, "changes": changes, "present": present, "warnings": []})
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_apply_verify_apply_again_and_remove() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    let own = foreign(&server);

    // nothing is changed without --yes
    for words in [&["plan"][..], &["verify"], &["apply"]] {
        let ran = world.run(words).with_code(4).says("2 mailboxes, 2 not as wanted");
        assert!(ran.line("Ann").ends_with("ann@contoso.test      missing: to create"), "{}", ran.out);
        assert_eq!(ran.out.contains("nothing was changed; give --yes"), words == ["apply"], "{}", ran.out);
        assert!(
            ran.out.starts_with("Name     Address               Rule to crm@contoso.test\n"),
            "{}",
            ran.out
        );
    }
    assert_eq!((changes(&server), server.rules(SUPPORT).len()), (0, 0));

    let ran = world.run(&["apply", "--yes"]).with_code(0).says("2 mailboxes, 0 not as wanted");
    assert!(ran.line("Ann").ends_with("done: create") && ran.line("Support").ends_with("done: create"));
    assert_eq!(changes(&server), 2);
    let made = server.rules(ANN)[1].clone();
    for part in [
        format!("<t:DisplayName>{NAME}</t:DisplayName>"),
        "<t:Priority>2</t:Priority>".to_owned(),
        "<t:IsEnabled>true</t:IsEnabled>".to_owned(),
        format!("<t:EmailAddress>{FORWARD}</t:EmailAddress>"),
        "<t:ForwardAsAttachmentToRecipients>".to_owned(),
    ] {
        assert!(made.contains(&part), "no {part} in {made}");
    }
    assert!(!made.contains("<t:SentToOrCcMe>"), "{made}");

    // once is enough
    for words in [&["apply", "--yes"][..], &["apply"], &["plan"], &["verify"]] {
        let ran = world.run(words).with_code(0).says("2 mailboxes, 0 not as wanted");
        assert!(ran.line("Ann").ends_with("  as wanted") && !ran.out.contains("--yes"), "{}", ran.out);
    }
    assert_eq!((changes(&server), server.rules(ANN)), (2, vec![own.clone(), made]));

    // who has the rule and who has not, also those whose mail comes in another way
    let (names, row) = world.rows(&["verify", ANN, "Bob", "carla@contoso.test"], 4);
    assert_eq!(names, ["Ann", "Bob", "Carla"]);
    assert_eq!(row("Ann")["outcome"], outcome("planned", "as_wanted", json!([]), &[NAME]));
    assert_eq!(row("Bob")["outcome"], outcome("planned", "missing", json!([{"change": "create"}]), &[]));

    let ran = world.run(&["remove"]).with_code(4).says("nothing was changed; give --yes");
    assert!(ran.line("Ann").ends_with("  present: to delete"), "{}", ran.out);
    assert_eq!(server.rules(ANN).len(), 2);
    let ran = world.run(&["remove", "--yes"]).with_code(0);
    assert!(ran.line("Support").ends_with("  done: delete"), "{}", ran.out);
    assert_eq!((server.rules(ANN), server.rules(SUPPORT).len()), (vec![own], 0));
    let ran = world.run(&["remove", "--yes"]).with_code(0);
    assert!(ran.line("Ann").ends_with("  as wanted"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_all_that_is_known_of_each_mailbox() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    let (names, row) = world.rows(&["apply", "--yes"], 0);
    assert_eq!(names, ["Ann", "Support"]);
    let create = json!([{"change": "create"}]);
    assert_eq!(
        row("Ann"),
        json!({"name": "Ann", "address": ANN, "kind": "user", "outcome": outcome("done", "missing", create, &[])})
    );
    assert_eq!(row("Support")["kind"], "queue");
    let (_, row) = world.rows(&["remove"], 4);
    let change = &row("Ann")["outcome"]["changes"][0];
    assert_eq!(change["change"], "delete");
    assert!(server.rules(ANN)[0].contains(change["id"].as_str().unwrap()));
}

/// Whatever became of the rule is repaired, and nothing else is touched.
#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired() {
    let good = || rule("r1", NAME, 2, true, FORWARD);
    let behind = "<t:Conditions><t:SentToOrCcMe>true</t:SentToOrCcMe></t:Conditions><t:Actions>";
    for (what, rules, said) in [
        ("switched off", vec![rule("r1", NAME, 2, false, FORWARD)], "different: to update"),
        ("another target", vec![rule("r1", NAME, 2, true, "old@contoso.test")], "different: to update"),
        ("renamed", vec![rule("r1", "Old [email-router]", 2, true, FORWARD)], "different: to update"),
        ("another condition", vec![good().replace("<t:Actions>", behind)], "different: to update"),
        (
            "does more",
            vec![good().replace("<t:Actions>", "<t:Actions><t:Delete>true</t:Delete>")],
            "different: to update",
        ),
        ("twice", vec![good(), rule("r2", NAME, 3, true, FORWARD)], "different: to delete"),
        (
            "twice, both wrong",
            vec![rule("r1", NAME, 2, false, FORWARD), rule("r2", NAME, 3, true, "old@contoso.test")],
            "different: to update, delete",
        ),
        (
            "three times",
            vec![good(), rule("r2", NAME, 3, true, FORWARD), rule("r3", NAME, 4, true, FORWARD)],
            "different: to delete 2",
        ),
    ] {
        let server = exchange_server().await;
        let world = World::usual(&exchange("exchange", &server)).await;
        let own = foreign(&server);
        rules.iter().for_each(|rule| server.add_rule(ANN, rule));
        let ran = world.run(&["verify", "Ann"]).with_code(4);
        assert!(ran.line("Ann").ends_with(said), "{what}: {}", ran.out);
        let ran = world.run(&["apply", "--yes", "Ann"]);
        assert!(
            ran.code == Some(0) && ran.line("Ann").ends_with(&said.replace("different: to", "done:")),
            "{what}: {}",
            ran.out
        );
        world.run(&["verify", "Ann"]).with_code(0);
        let kept = server.rules(ANN);
        assert_eq!((kept.len(), &kept[0]), (2, &own), "{what}");
        assert!(!kept[1].contains("<t:Delete>") && !kept[1].contains("SentToOrCcMe"), "{what}: {}", kept[1]);
    }
}

/// Where Autodiscover finds nothing each step is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_not_found() {
    let server = exchange_server().await;
    let url = format!("<ExchangeWebServicesUrl>{}</ExchangeWebServicesUrl>", server.url());
    let nowhere = "<UseAutodiscover>true</UseAutodiscover><Proxy><Url>http://127.0.0.1:1</Url></Proxy>";
    let world = World::usual(&exchange("exchange", &server).replace(&url, nowhere)).await;
    let ran = world
        .run(&["plan", "Ann"])
        .with_code(4)
        .says("\n      1. https://contoso.test/autodiscover/autodiscover.svc: ");
    let ran = ran.says("finds no Exchange Web Services for ann@contoso.test").says("what to do: set the URL");
    assert!(ran.out.contains(". SRV _autodiscover._tcp.contoso.test: "), "{}", ran.out);
    let (_, row) = world.rows(&["plan", "Ann"], 4);
    assert!(row("Ann")["outcome"]["steps"].as_array().unwrap().len() > 3, "{:#}", row("Ann"));
}

/// Exchange may tell recipients of its own by their names in the directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_known_again_by_the_directory_name_of_the_forward_mailbox() {
    let server = exchange_server_with(EwsOptions { directory_names: true, ..EwsOptions::default() }).await;
    let world = World::usual(&exchange("exchange", &server)).await;
    server.add_rule(SUPPORT, &rule("r1", NAME, 1, true, "bob@contoso.test"));
    server.add_rule("bob@contoso.test", &rule("r2", "By hand", 1, true, FORWARD));
    world.run(&["apply", "--yes"]).with_code(0).says("done: create").says("done: update");
    let before = changes(&server);
    world.run(&["apply", "--yes"]).with_code(0).says("2 mailboxes, 0 not as wanted");
    assert_eq!((changes(&server), server.rules(ANN).len(), server.rules(SUPPORT).len()), (before, 1, 1));
    world.run(&["plan", "Bob"]).with_code(4).says("another rule forwards there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_condition_and_the_name_are_chosen() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    let chosen = ["--condition", "to-or-cc-me", "--name", " Track <all> & \"more\" "];
    world.run(&[&["apply", "--yes", "Ann"], &chosen[..]].concat()).with_code(0);
    let made = server.rules(ANN)[0].clone();
    assert!(made.contains("<t:SentToOrCcMe>true</t:SentToOrCcMe>"), "{made}");
    let (_, row) = world.rows(&[&["verify", "Ann"], &chosen[..]].concat(), 0);
    assert_eq!(row("Ann")["outcome"]["present"], json!(["Track <all> & \"more\" [email-router]"]));
    // another wish changes the same rule
    world.run(&["apply", "--yes", "Ann"]).with_code(0).says("done: update");
    let changed = server.rules(ANN);
    assert!(
        changed.len() == 1 && !changed[0].contains("SentToOrCcMe") && changed[0].contains(NAME),
        "{changed:?}"
    );
    world.run(&["plan", "Ann", "--name", NAME]).with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_outlook_keeps_for_itself_are_lost_only_when_that_is_allowed() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    server.set_outlook_blob(ANN, true);
    world.run(&["plan", "Ann"]).with_code(4).says("    warning: Outlook keeps rules of its own");
    let ran = world.run(&["apply", "--yes"]).with_code(4).says("2 mailboxes, 1 not as wanted");
    assert!(
        ran.line("Ann").contains("Failure - ") && ran.out.contains("--remove-outlook-rules"),
        "{}",
        ran.out
    );
    assert!(ran.line("Support").ends_with("done: create"));
    let (_, row) = world.rows(&["apply", "--yes", "Ann"], 4);
    assert_eq!(row("Ann")["outcome"]["fault"], "settings");
    assert_eq!((server.rules(ANN).len(), server.outlook_blob(ANN)), (0, true));

    world.run(&["apply", "Ann", "--remove-outlook-rules"]).with_code(4).says("give --yes");
    assert!(server.outlook_blob(ANN), "that alone changes nothing");
    world.run(&["apply", "--yes", "Ann", "--remove-outlook-rules"]).with_code(0).says("done: create");
    assert_eq!((server.rules(ANN).len(), server.outlook_blob(ANN)), (1, false));

    server.set_outlook_blob(ANN, true);
    // where nothing has to be changed nothing is lost
    let ran = world.run(&["apply", "--yes", "Ann"]).with_code(0);
    assert!(!ran.out.contains("warning") && server.outlook_blob(ANN), "{}", ran.out);
    world.run(&["remove", "--yes", "Ann"]).with_code(4).says("--remove-outlook-rules");
    assert_eq!(server.rules(ANN).len(), 1);
    world.run(&["remove", "--yes", "Ann", "--remove-outlook-rules"]).with_code(0);
    assert_eq!(server.rules(ANN).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_fails_keeps_no_other_from_being_served() {
    let server = exchange_server().await;
    server.add_user("dora", "Secret123", "dora@contoso.test");
    let world = World::usual(&exchange("exchange", &server)).await;
    // Dora's mailbox is closed to the account, Nobody has none
    world.crm(&[("Dora", "dora", "3"), ("Nobody", "nobody", "3")], &[]).await;
    let ran =
        world.run(&["apply", "--yes", "--at-once", "1"]).with_code(4).says("4 mailboxes, 2 not as wanted");
    assert!(
        ran.line("Ann").ends_with("done: create") && ran.line("Support").ends_with("done: create"),
        "{}",
        ran.out
    );
    let (_, row) = world.rows(&["verify"], 4);
    for (name, words, hint) in [
        (
            "Dora",
            "ErrorAccessDenied",
            "Add-MailboxPermission -Identity dora@contoso.test -User svc -AccessRights FullAccess",
        ),
        ("Nobody", "ErrorNonExistentMailbox", "check the address nobody@contoso.test"),
    ] {
        let found = &row(name)["outcome"];
        assert_eq!(
            (&found["status"], &found["fault"]),
            (&json!("failure"), &json!("access-denied")),
            "{found:#}"
        );
        assert!(found["reason"].as_str().unwrap().contains(words), "{found:#}");
        assert!(found["hint"].as_str().unwrap().contains(hint), "{found:#}");
    }
    assert_eq!(server.rules("dora@contoso.test").len(), 0);
    // a server that cuts the line in the middle of a change: the next run sees what it did
    server.plan("UpdateInboxRules", Mishap::DoneThenCut);
    let ran = world.run(&["apply", "--yes", "Bob"]).with_code(4);
    assert!(ran.line("Bob").contains("Failure - "), "{}", ran.out);
    let ran = world.run(&["apply", "--yes", "Bob"]).with_code(0);
    assert!(ran.line("Bob").ends_with("as wanted"), "{}", ran.out);
    assert_eq!(server.rules("bob@contoso.test").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_somebody_else_that_forwards_there_is_left_alone() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    server.add_rule(ANN, &rule("x", "By hand", 1, true, FORWARD));
    let stopping = rule("y", "First come", 1, true, "other@contoso.test")
        .replace("</t:Actions>", "<t:StopProcessingRules>true</t:StopProcessingRules></t:Actions>");
    server.add_rule(SUPPORT, &stopping);
    let before = (server.rules(ANN), server.rules(SUPPORT));
    let ran = world.run(&["apply", "--yes"]).with_code(4).says("2 mailboxes, 1 not as wanted");
    assert!(ran.line("Ann").ends_with("another rule forwards there"), "{}", ran.out);
    let ran = ran
        .says("    warning: a rule that is not of this program forwards")
        .says("\"First come\" stops the processing");
    assert!(ran.line("Support").ends_with("done: create"), "{}", ran.out);
    assert_eq!(server.rules(ANN), before.0);
    assert_eq!(server.rules(SUPPORT)[..1], before.1);
    world.run(&["remove", "--yes"]).with_code(0);
    assert_eq!((server.rules(ANN), server.rules(SUPPORT)), before);
}

/// Names come from whoever can write into the mailbox or the CRM.
#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_move_the_cursor() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    world.crm(&[("Eve\u{202e}", "eve", "3")], &[]).await;
    let evil = "&#x1B;[2J&#x9B;31m\u{202e}evil&#x7F; [email-router]";
    let in_error = rule("r1", evil, 1, true, FORWARD)
        .replace("<t:Actions>", "<t:IsInError>true</t:IsInError><t:Actions>");
    server.add_rule(ANN, &in_error);
    server.add_rule(
        SUPPORT,
        &rule("r2", "&#x1B;[2J&#x9B;31m\u{202e}evil", 1, true, "x@y.test")
            .replace("</t:Actions>", "<t:StopProcessingRules>true</t:StopProcessingRules></t:Actions>"),
    );
    for words in [&["verify"][..], &["apply"]] {
        let ran = world
            .run(words)
            .with_code(4)
            .says("could not carry out")
            .says("stops the processing")
            .says("Eve");
        let bad: Vec<char> =
            ran.out.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
        assert_eq!(bad, Vec::<char>::new(), "{:?}", ran.out);
    }
    let (_, row) = world.rows(&["verify", "Ann"], 4);
    let name = row("Ann")["outcome"]["present"][0].as_str().unwrap().to_owned();
    assert!(
        name.contains("31m\u{202e}evil") && name.ends_with(" [email-router]"),
        "programs get it as it is: {name:?}"
    );
}
