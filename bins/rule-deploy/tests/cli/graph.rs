//! Plan, apply, verify and remove by Microsoft Graph, with tokens of an application.

use std::sync::Arc;

use email_router::model::SystemClock;
use email_router_testkit::graph::{Fault, GraphServer};
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT, refusal};
use serde_json::json;

use crate::support::{FORWARD, NAME, World};

const ANN: &str = "ann@contoso.test";
const SUPPORT: &str = "support@contoso.test";
const TOKEN: &str = "token-of-the-application";

struct Online {
    graph: GraphServer,
    tokens: OAuthService,
    world: World,
}

async fn online() -> Online {
    let graph = GraphServer::start(&[TOKEN]).await;
    for name in ["ann", "bob", "support"] {
        graph.add_mailbox(&format!("{name}@contoso.test"));
    }
    let tokens = OAuthService::start(Arc::new(SystemClock)).await;
    let profile = format!(
        "<ConfigurationProfile><Name>online</Name><Direction>Incoming</Direction><ServerType>ExchangeOnline</ServerType>\
         <Protocol>MicrosoftGraph</Protocol><AuthenticationType>OAuth2</AuthenticationType><AccessCredentials>OtherSpecified</AccessCredentials>\
         <Application><TenantId>{TENANT}</TenantId><ClientId>{CLIENT_ID}</ClientId><ClientSecret>file:secret</ClientSecret><Authority>{}</Authority></Application>\
         <GraphUrl>{}</GraphUrl><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls></ConfigurationProfile>",
        tokens.authority(),
        graph.base()
    );
    let world = World::usual(&profile).await;
    Online { graph, tokens, world }
}

impl Online {
    /// Each run of the program asks for one token.
    fn gives_tokens(&self) {
        let body = format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{TOKEN}"}}"#);
        self.tokens.change(|b| b.next = vec![Answer::new(200).body("application/json", body); 20]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_apply_verify_apply_again_and_remove() {
    let online = online().await;
    online.gives_tokens();
    let (graph, world) = (&online.graph, &online.world);
    // more than fit on one page of the list
    for n in 1..5 {
        graph.add_rule(
            ANN,
            json!({"displayName": format!("Own {n}"), "sequence": n, "isEnabled": true,
                   "conditions": {"subjectContains": ["news"]}, "actions": {"markAsRead": true, "stopProcessingRules": n == 4}}),
        );
    }
    let own = graph.rules(ANN);
    let ran = world.run(&["apply"]).with_code(4).says("give --yes").says("\"Own 4\" stops the processing");
    assert!(ran.line("Ann").ends_with("missing: to create") && !ran.out.contains("\"Own 3\""), "{}", ran.out);
    assert_eq!((graph.rules(ANN), graph.rules(SUPPORT).len()), (own.clone(), 0));

    let ran = world.run(&["apply", "--yes"]).with_code(0).says("2 mailboxes, 0 not as wanted");
    assert!(ran.line("Ann").ends_with("done: create") && ran.line("Support").ends_with("done: create"));
    let rules = graph.rules(ANN);
    assert_eq!(rules[..4], own);
    let made = &rules[4];
    assert_eq!(
        (&made["displayName"], &made["isEnabled"], &made["sequence"]),
        (&json!(NAME), &json!(true), &json!(5))
    );
    assert_eq!(made["actions"]["forwardAsAttachmentTo"][0]["emailAddress"]["address"], FORWARD);
    assert!(made["conditions"].is_null(), "{made:#}");

    graph.forget_requests();
    world.run(&["apply", "--yes"]).with_code(0);
    let asked = graph.requests();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.starts_with("GET ")), "{asked:?}");

    let (_, row) = world.rows(&["verify", "Ann", "Bob"], 4);
    assert_eq!(row("Ann")["outcome"]["state"], "as_wanted");
    assert_eq!(row("Ann")["outcome"]["present"], json!([NAME]));
    assert_eq!(row("Bob")["outcome"]["state"], "missing");

    world.run(&["apply", "--yes", "Ann", "--condition", "to-or-cc-me"]).with_code(0).says("done: update");
    assert_eq!(graph.rules(ANN)[4]["conditions"], json!({"sentToOrCcMe": true}));
    world.run(&["remove", "--yes"]).with_code(0);
    assert_eq!((graph.rules(ANN), graph.rules(SUPPORT).len()), (own, 0));
    assert_eq!(graph.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired() {
    let online = online().await;
    online.gives_tokens();
    let (graph, world) = (&online.graph, &online.world);
    let to = |address: &str| json!({"forwardAsAttachmentTo": [{"emailAddress": {"address": address, "name": "x"}}]});
    graph.add_rule(ANN, json!({"displayName": "Old [email-router]", "sequence": 1, "isEnabled": false, "actions": to("old@contoso.test")}));
    graph.add_rule(ANN, json!({"displayName": NAME, "sequence": 2, "isEnabled": true, "actions": to(FORWARD), "exceptions": {"subjectContains": ["x"]}}));
    let ran = world.run(&["verify", "Ann"]).with_code(4);
    assert!(ran.line("Ann").ends_with("different: to update, delete"), "{}", ran.out);
    world.run(&["apply", "--yes", "Ann"]).with_code(0).says("done: update, delete");
    let rules = graph.rules(ANN);
    assert_eq!(rules.len(), 1);
    assert_eq!((&rules[0]["displayName"], &rules[0]["isEnabled"]), (&json!(NAME), &json!(true)));
    assert_eq!(rules[0]["actions"]["forwardAsAttachmentTo"][0]["emailAddress"]["address"], FORWARD);
    world.run(&["verify", "Ann"]).with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told_for_each_mailbox() {
    let online = online().await;
    online.gives_tokens();
    let (graph, world) = (&online.graph, &online.world);
    let denied = r#"{"error":{"code":"ErrorAccessDenied","message":"Access is denied. Check credentials and try again."}}"#;
    let fault =
        || Fault::Answer(403, vec![("Content-Type", "application/json".to_owned())], denied.to_owned());
    graph.plan("GET", &format!("/users/{ANN}/"), 1, fault());
    graph.plan("POST", &format!("/users/{SUPPORT}/"), 1, fault());
    world.crm(&[("Nobody", "nobody", "3")], &[]).await;
    let (names, row) = world.rows(&["apply", "--yes"], 4);
    assert_eq!(names, ["Ann", "Nobody", "Support"]);
    for (name, words, hint) in [
        ("Ann", "ErrorAccessDenied", "MailboxSettings.Read "),
        ("Support", "ErrorAccessDenied", "MailboxSettings.ReadWrite "),
        ("Nobody", "ErrorInvalidUser", "the mailbox must exist in this tenant"),
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
    graph.mend();
    world.run(&["apply", "--yes", "Ann", "Support"]).with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_explained() {
    let online = online().await;
    let refused = refusal(401, "invalid_client", 7_000_222, "The provided client secret keys are expired.");
    online.tokens.change(|b| b.next = vec![refused; 8]);
    let (_, row) = online.world.rows(&["plan"], 4);
    for name in ["Ann", "Support"] {
        let found = &row(name)["outcome"];
        assert_eq!(found["fault"], "authentication", "{found:#}");
        assert!(found["reason"].as_str().unwrap().contains("AADSTS7000222"), "{found:#}");
        assert!(found["hint"].as_str().unwrap().contains("the client secret has expired"), "{found:#}");
        assert!(!found.to_string().contains("s3cr3t"), "{found:#}");
    }
}
