//! Deployments on servers: connected, isolated, tried again, tested.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use email_router::access::{self, CheckState};
use email_router::model::SystemClock;
use email_router::{OpenOptions, Service};
use email_router_testkit::dataverse::{DataverseServer, Fault, TOKEN};
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT};
use tokio::sync::watch;

const PROFILE: &str = "<ConfigurationProfiles><ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction>\
    <ServerType>Maildir</ServerType><Path>{address}</Path></ConfigurationProfile></ConfigurationProfiles>";

/// A configuration with these deployments, and in each a queue of its name.
fn configuration(deployments: &[(&str, String)]) -> String {
    let places: String = deployments
        .iter()
        .map(|(name, rest)| {
            format!(
                "<Deployment><Name>{name}</Name>{rest}<DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment>"
            )
        })
        .collect();
    let queues: String = deployments
        .iter()
        .map(|(name, _)| {
            format!(
                "<Queue><Name>{name}</Name><EmailAddress>{name}@example.com</EmailAddress><Deployment>{name}</Deployment></Queue>"
            )
        })
        .collect();
    format!(
        "<Configuration><SystemConfiguration><ConfigRefreshPeriod>100</ConfigRefreshPeriod></SystemConfiguration>{PROFILE}\
         <Deployments>{places}</Deployments><Mailboxes>{queues}</Mailboxes>\
         <Router><AllowEmbeddedBesideOthers>true</AllowEmbeddedBesideOthers></Router></Configuration>"
    )
}

fn embedded(name: &str) -> (&str, String) {
    (name, format!("<Type>Embedded</Type><Path>{name}.sqlite</Path>"))
}

/// This server, by an application whose tokens come from there.
fn server<'a>(name: &'a str, crm: &str, authority: &str) -> (&'a str, String) {
    let rest = format!(
        "<Type>OnlineServiceProvider</Type><Url>{crm}</Url><AllowHttp>true</AllowHttp><Proxy><Url>None</Url></Proxy>\
         <Application><TenantId>{TENANT}</TenantId><ClientId>{CLIENT_ID}</ClientId><ClientSecret>file:secret</ClientSecret>\
         <Authority>{authority}</Authority></Application>"
    );
    (name, rest)
}

/// A token service whose tokens the server of the test kit takes.
async fn tokens() -> OAuthService {
    let service = OAuthService::start(Arc::new(SystemClock)).await;
    let token = format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{TOKEN}"}}"#);
    service.change(|b| b.next = vec![Answer::new(200).body("application/json", token.as_str()); 8]);
    service
}

fn mail(folder: &Path, to: &str, number: u32) {
    let maildir = folder.join(format!("{to}@example.com"));
    for part in ["tmp", "new", "cur"] {
        std::fs::create_dir_all(maildir.join(part)).unwrap();
    }
    let text = format!(
        "From: a@x.example\r\nTo: {to}@example.com\r\nSubject: hello {number}\r\nMessage-ID: <{number}@x.example>\r\n\r\nhi\r\n"
    );
    std::fs::write(maildir.join(format!("new/{number}.a")), text).unwrap();
}

/// A folder with the configuration and the application's secret.
fn folder(deployments: &[(&str, String)]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "s3cr3t~value\n").unwrap();
    let file = folder.path().join("EmailAgent.xml");
    std::fs::write(&file, configuration(deployments)).unwrap();
    (folder, file)
}

async fn add_queues(service: &Service, names: &[&str]) {
    for name in names {
        let admin = service.organization(Some(name)).unwrap().administration().unwrap();
        support::add_queue(&admin, name, &format!("{name}@example.com")).await;
    }
}

fn received(crm: &DataverseServer) -> usize {
    crm.rows("emails").len()
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_from_a_maildir_into_an_organization_on_a_server_once() {
    let (crm, tokens) = (DataverseServer::start().await, tokens().await);
    crm.add_queue("far", "far@example.com");
    let (folder, file) = folder(&[server("far", &crm.base(), &tokens.authority())]);
    mail(folder.path(), "far", 1);
    let (_keep, stop) = watch::channel(false);
    for run in 0..2 {
        let service = Service::open(&file, OpenOptions::default()).await.unwrap();
        assert!(service.organization(None).unwrap_err().to_string().contains("it was not asked"));
        let report = service.run_once(&stop).await.unwrap();
        assert_eq!(report.failures, [], "run {run}");
        assert_eq!(report.incoming.delivered, u64::from(run == 0), "run {run}");
        let organization = service.organization(Some("far")).unwrap();
        assert!(organization.embedded().is_none() && organization.dataverse().is_some());
        let refused = organization.administration().unwrap_err().to_string();
        assert!(refused.contains("far is on a server"), "{refused}");
        // the application of the CRM is among those whose tokens are watched
        let watched = organization.access_tokens();
        assert!(watched.iter().any(|t| t.application.contains(CLIENT_ID) && t.valid_until.is_some()));
    }
    assert_eq!(received(&crm), 1);
    let email = crm.rows("emails").remove(0);
    assert_eq!(email["subject"], "hello 1");
    assert_eq!(email["messageid"], "<1@x.example>");
    assert!(folder.path().join("email-router-mirror-far.db").is_file());
}

/// A token service of one's own without a tenant is an AD FS (`crm-contract.md` 10.2): a service user, or the application alone.
#[tokio::test(flavor = "multi_thread")]
async fn ad_fs_gives_the_token_of_an_organization() {
    use email_router_testkit::oauth::{AD_FS_PASSWORD, AD_FS_USER};
    for (who, secret) in [
        (format!("<UserName>{AD_FS_USER}</UserName><Password>file:secret</Password>"), AD_FS_PASSWORD),
        (String::new(), "s3cr3t~value"),
    ] {
        let crm = DataverseServer::start().await;
        crm.let_everybody_in();
        crm.add_queue("far", "far@example.com");
        let tokens = OAuthService::start(Arc::new(SystemClock)).await;
        let own = if who.is_empty() { "<ClientSecret>file:secret</ClientSecret>" } else { "" };
        let rest = format!(
            "<Type>OnlineServiceProvider</Type><Url>{}</Url><AllowHttp>true</AllowHttp><Proxy><Url>None</Url></Proxy>{who}\
             <Application><ClientId>{CLIENT_ID}</ClientId>{own}<Authority>{}</Authority><Scope>https://contoso.example/</Scope></Application>",
            crm.base(),
            tokens.authority()
        );
        let (folder, file) = folder(&[("far", rest)]);
        std::fs::write(folder.path().join("secret"), secret).unwrap();
        mail(folder.path(), "far", 1);
        let service = Service::open(&file, OpenOptions::default()).await.unwrap();
        let report = service.run_once(&watch::channel(false).1).await.unwrap();
        assert_eq!((report.failures.len(), report.incoming.delivered), (0, 1), "{report:?}");
        assert_eq!((received(&crm), tokens.asked()), (1, 1));
        assert!(crm.http().seen().iter().all(|seen| seen.header("authorization").is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_stops_no_other_deployment() {
    let dead = "http://127.0.0.1:9"; // discard: nobody listens
    let (folder, file) = folder(&[embedded("one"), server("dead", dead, dead), embedded("two")]);
    let service = Service::open(&file, OpenOptions::default()).await.unwrap();
    add_queues(&service, &["one", "two"]).await;
    drop(service);
    let service = Service::open(&file, OpenOptions::default()).await.unwrap();
    mail(folder.path(), "one", 1);
    mail(folder.path(), "two", 2);
    let (_keep, stop) = watch::channel(false);
    let report = service.run_once(&stop).await.unwrap();
    assert_eq!(report.incoming.delivered, 2);
    let [(who, why)] = &report.failures[..] else { panic!("{:?}", report.failures) };
    assert!(who == "deployment dead" && why.starts_with("not connected: "), "{who}: {why}");
    let statuses = service.deployments();
    let connected: Vec<_> = statuses.iter().map(|s| (s.name.as_str(), s.connected)).collect();
    assert_eq!(connected, [("one", true), ("dead", false), ("two", true)]);
    assert!(statuses[1].error.is_some() && statuses[0].error.is_none());
    let refused = service.organization(Some("dead")).unwrap_err().to_string();
    assert!(refused.starts_with("deployment dead is not connected: "), "{refused}");
}

/// A server that refuses at first: the others are served meanwhile, it is tried again when the configuration changes, and then it is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_comes_back_is_served() {
    let (crm, tokens) = (DataverseServer::start().await, tokens().await);
    crm.add_queue("far", "far@example.com");
    crm.plan("GET", "WhoAmI", 100, Fault::error(403, 0x8004_0220, "no role"));
    let deployments = [embedded("near"), server("far", &crm.base(), &tokens.authority())];
    let (folder, file) = folder(&deployments);
    let service = Service::open(&file, OpenOptions::default()).await.unwrap();
    add_queues(&service, &["near"]).await;
    drop(service);
    mail(folder.path(), "near", 1);
    mail(folder.path(), "far", 2);
    let service = Arc::new(Service::open(&file, OpenOptions::default()).await.unwrap());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.run(stopped).await }
    });
    let near = service.organization(Some("near")).unwrap().administration().unwrap();
    let delivered = async {
        while near.statistics().await.unwrap().incoming.get("received") != Some(&1) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), delivered).await.unwrap();
    until(|| service.deployments()[1].next_attempt.is_some()).await;
    assert_eq!(received(&crm), 0);
    crm.mend();
    // a person has changed something: it does not wait for the next attempt
    std::fs::write(&file, configuration(&deployments).replace(">100<", ">101<")).unwrap();
    until(|| received(&crm) == 1).await;
    let far = service.deployments().remove(1);
    assert!(far.connected && far.error.is_none() && far.next_attempt.is_none(), "{far:?}");
    stop.send_replace(true);
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn test_access_asks_the_crm_as_the_service_would() {
    let (crm, tokens) = (DataverseServer::start().await, tokens().await);
    crm.add_queue("far", "far@example.com");
    crm.add_queue("More", "more@example.com");
    let dead = "http://127.0.0.1:9";
    let (name, rest) = server("far", &crm.base(), &tokens.authority());
    let loads = (name, format!("{rest}<LoadMailboxes>true</LoadMailboxes>"));
    let (folder, file) = folder(&[embedded("near"), loads, server("dead", dead, dead)]);
    let found = access::targets(&file, &[]).await.unwrap();
    let [near, far, dead] = &found.deployments[..] else { panic!("{found:?}") };
    assert!(!near.is_failure() && near.checks[0].state == CheckState::Warning, "{near:?}");
    assert!(!far.is_failure() && far.checks.iter().any(|c| c.name == "privileges"), "{far:?}");
    assert!(dead.is_failure() && dead.checks.len() == 1, "{dead:?}");
    let addresses: Vec<_> = found.mailboxes.iter().map(|t| t.mailbox.address.as_str()).collect();
    assert_eq!(addresses, ["near@example.com", "far@example.com", "more@example.com", "dead@example.com"]);
    // nothing is made, neither here nor there
    assert!(!folder.path().join("email-router-mirror-far.db").exists());
    assert!(crm.requests().iter().all(|r| r.starts_with("GET ")), "{:?}", crm.requests());

    // only what is asked about
    let one = access::targets(&file, &["more@example.com".to_owned()]).await.unwrap();
    assert_eq!(one.deployments.iter().map(|d| d.deployment.as_str()).collect::<Vec<_>>(), ["far"]);
    crm.deny("prvCreateActivity");
    let denied = access::targets(&file, &["far@example.com".to_owned()]).await.unwrap();
    let check = denied.deployments[0].checks.iter().find(|c| c.state == CheckState::Failed).unwrap();
    assert!(check.text.contains("prvCreateActivity"), "{check:?}");
    assert!(check.hint.is_some());
    let unknown = access::targets(&file, &["nobody@example.com".to_owned()]).await.unwrap_err().to_string();
    assert!(unknown.contains("the CRM of deployment far fails"), "{unknown}");
}

/// A secret that is changed while the router runs: the next token is asked for with the new one, and the deployment stays connected.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_counts_without_a_new_connection() {
    let crm = DataverseServer::start().await;
    crm.let_everybody_in();
    crm.add_queue("far", "far@example.com");
    let tokens = OAuthService::start(Arc::new(SystemClock)).await;
    tokens.change(|b| b.secret = "new".to_owned());
    let (name, rest) = server("far", &crm.base(), &tokens.authority());
    // it asks often, so that it needs a token soon; and for one that the token service of the test kit knows
    let rest = format!("{rest}<MirrorPeriod>1000</MirrorPeriod>")
        .replace("<ClientSecret>", "<Scope>https://outlook.office365.com/.default</Scope><ClientSecret>");
    let (folder, file) = folder(&[(name, rest)]);
    let service = Arc::new(Service::open(&file, OpenOptions::default()).await.unwrap());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.run(stopped).await }
    });
    until(|| service.deployments()[0].error.is_some()).await;
    std::fs::write(folder.path().join("secret"), "new").unwrap();
    until(|| service.deployments()[0].connected).await;
    let asked = tokens.asked();
    tokens.change(|b| b.secret = "newer".to_owned());
    std::fs::write(folder.path().join("secret"), "newer").unwrap();
    until(|| tokens.asked() > asked).await;
    until(|| service.organization(None).unwrap().access_tokens().iter().any(|t| t.valid_until.is_some()))
        .await;
    mail(folder.path(), "far", 1);
    until(|| received(&crm) == 1).await;
    stop.send_replace(true);
    running.await.unwrap().unwrap();
}
