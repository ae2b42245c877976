//! The token service and Microsoft Graph.

use std::sync::Arc;

use email_router::model::SystemClock;
use email_router_testkit::graph::{Fault, GraphServer};
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT, refusal};

use crate::setup::{Setup, fails};

/// A token service and a Graph, and a profile of each name.
struct Online {
    graph: GraphServer,
    tokens: OAuthService,
}

impl Online {
    async fn start() -> Self {
        let graph = GraphServer::start(&["good"]).await;
        graph.add_mailbox("ann@contoso.test");
        graph.add_mailbox("svc@contoso.test");
        Self { graph, tokens: OAuthService::start(Arc::new(SystemClock)).await }
    }

    fn profile(&self, tenant: &str, client: &str) -> String {
        format!(
            "<ServerType>ExchangeOnline</ServerType><Protocol>MicrosoftGraph</Protocol><AuthenticationType>OAuth2</AuthenticationType>\
             <AccessCredentials>OtherSpecified</AccessCredentials><Application><TenantId>{tenant}</TenantId><ClientId>{client}</ClientId>\
             <ClientSecret>file:secret</ClientSecret><Authority>{}</Authority></Application>\
             <GraphUrl>{}</GraphUrl><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>",
            self.tokens.authority(),
            self.graph.base()
        )
    }

    fn gives(&self, token: &str) {
        let body = format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{token}"}}"#);
        self.tokens.change(|b| b.next = vec![Answer::new(200).body("application/json", body)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_given_are_explained_by_their_number() {
    let online = Online::start().await;
    let one = |tenant: &str, client: &str| {
        let mut setup = Setup::default();
        setup.add("ann", "ann@contoso.test", "Incoming", &online.profile(tenant, client), "");
        setup.world()
    };
    let other = "99999999-1111-2222-3333-444444444444";
    for (tenant, client, fault, number, hint) in [
        (other, CLIENT_ID, "settings", "AADSTS90002", "whether the cloud is the right one"),
        ("nonsense", CLIENT_ID, "settings", "AADSTS900023", "copy the directory (tenant) id"),
        (TENANT, other, "authentication", "AADSTS700016", "the application is not known in this tenant"),
    ] {
        let row = one(tenant, client).rows(&[], 4)("ann");
        fails(&row["incoming"], fault, number, hint, &[]);
    }
    let world = one(TENANT, CLIENT_ID);
    for (number, status, error, fault, hint) in [
        (7_000_215, 401, "invalid_client", "authentication", "enter its value, not its id"),
        (7_000_222, 401, "invalid_client", "authentication", "the client secret has expired"),
        (
            700_027,
            401,
            "invalid_client",
            "authentication",
            "the certificate is not registered with the application",
        ),
        (65_001, 400, "invalid_grant", "authentication", "Grant admin consent"),
        (53_003, 400, "access_denied", "authentication", "conditional access policy"),
        (500_011, 400, "invalid_resource", "settings", "check scope and cloud"),
        (900_382, 400, "invalid_request", "settings", "set the cloud it was registered in"),
        (900_439, 400, "invalid_request", "settings", "the tenant's own cloud"),
        (90_033, 503, "temporarily_unavailable", "connection-lost", "nothing to do but wait"),
        (99_999, 500, "server_error", "connection-lost", "nothing to do but wait"),
        (1, 400, "invalid_request", "authentication", "look AADSTS1 up"),
    ] {
        online.tokens.change(|b| b.next = vec![refusal(status, error, number, "Words of the service."); 4]);
        let row = world.rows(&[], 4)("ann");
        fails(&row["incoming"], fault, &format!("AADSTS{number}: Words of the service."), hint, &[]);
    }
    online.tokens.change(|b| {
        b.next = vec![Answer::new(200).body("text/html", "<html>Please pay for the hotel's network</html>")];
    });
    let row = world.rows(&[], 4)("ann");
    fails(&row["incoming"], "connection-lost", "gives no token", "no proxy answers in its place", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn microsoft_graph() {
    let online = Online::start().await;
    let one = |whose: &str, way: &str, more: &str| {
        let mut setup = Setup::default();
        let elements =
            online.profile(TENANT, CLIENT_ID).replace("<Application>", &format!("{more}<Application>"));
        setup.add("ann", whose, way, &elements, "");
        setup.world()
    };
    let ann = one("ann@contoso.test", "Incoming", "");
    online.gives("good");
    ann.run(&["--verbose"])
        .with_code(0)
        .says("got an access token, opened the Inbox: 0 messages, began a listing");

    // a token that says for whom it is, which is not this Graph
    let row = ann.rows(&[], 4)("ann");
    let token = "got an access token (the token is for https://graph.microsoft.com, not for 127.0.0.1: is this the right cloud?";
    fails(
        &row["incoming"],
        "authentication",
        "Invalid audience",
        "authority, scope and Graph host must belong to the same national cloud",
        &[token],
    );

    let denied = r#"{"error":{"code":"ErrorAccessDenied","message":"Access is denied."}}"#;
    let json = || vec![("Content-Type", "application/json".to_owned())];
    for (method, part, step) in [("GET", "/mailFolders/inbox", 1), ("GET", "/messages/delta", 2)] {
        online.gives("good");
        online.graph.plan(method, part, 1, Fault::Answer(403, json(), denied.to_owned()));
        let found = ann.rows(&[], 4)("ann");
        let steps = ["got an access token", "opened the Inbox: 0 messages"];
        fails(&found["incoming"], "access-denied", "ErrorAccessDenied", "Mail.Read ", &steps[..step]);
        assert!(
            found["incoming"]["hint"].as_str().unwrap().contains("Test-ApplicationAccessPolicy"),
            "{found:#}"
        );
        online.graph.mend();
    }
    online.gives("good");
    let row = one("nobody@contoso.test", "Incoming", "").rows(&[], 4)("ann");
    fails(&row["incoming"], "access-denied", "ErrorInvalidUser", "licence", &["got an access token"]);
    // a proxy in between
    online.gives("good");
    online.graph.plan(
        "GET",
        "/mailFolders",
        9,
        Fault::Answer(
            403,
            vec![("Content-Type", "text/html".to_owned())],
            "<html><title>Blocked</title></html>".to_owned(),
        ),
    );
    let row = ann.rows(&[], 4)("ann");
    fails(&row["incoming"], "protocol", "Blocked", "check proxy and firewall", &["got an access token"]);
    online.graph.mend();

    for (access, step, command) in [
        (
            "SendAs",
            "svc@contoso.test sends as the mailbox",
            "Add-RecipientPermission -Identity ann@contoso.test -Trustee svc@contoso.test -AccessRights SendAs",
        ),
        (
            "DelegateAccess",
            "svc@contoso.test sends on behalf of the mailbox",
            "Set-Mailbox -Identity ann@contoso.test -GrantSendOnBehalfTo @{Add=\"svc@contoso.test\"}",
        ),
    ] {
        let more = format!("<AccessType>{access}</AccessType><UserName>svc@contoso.test</UserName>");
        online.gives("good");
        one("ann@contoso.test", "Outgoing", &more).run(&["--verbose"]).with_code(0).says(step).says(command);
    }
    assert_eq!(online.graph.violations(), Vec::<String>::new());
}
