//! What is logged. In a file of its own: a thread without a subscriber would turn the messages off for all of them.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::time::Duration;

use email_router_auth::CredentialFault as F;
use email_router_http::{HttpClient, HttpService as _};
use email_router_model::{Clock as _, Retry};
use email_router_testkit::http::{Answer, HttpServer};
use support::bench::{Bench, SECRET};
use support::{Log, basic, get, local, nobody, settings};

#[tokio::test]
async fn the_log_has_no_path_no_query_and_no_header() {
    let log = Log::start();
    let server = HttpServer::start(|_| Answer::new(200)).await;
    let mut settings = settings();
    settings.allow_cleartext_password = true;
    let client = HttpClient::new(settings).unwrap();
    let url = format!("{}/ann@contoso.test?token=t0k3n", local(&server));
    client.send(get(&url).with_login(basic())).await.unwrap();
    let url = format!("{}/ann@contoso.test?token=t0k3n", nobody());
    client.send(get(&url).with_login(basic())).await.unwrap_err();
    let lines = log.lines();
    assert!(lines.iter().any(|l| l.contains("GET") && l.contains("status=200")), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("no answer")), "{lines:?}");
    for secret in ["contoso.test", "t0k3n", "Geheim", "R2VoZWlt", "YW5uO"] {
        assert!(!log.text().contains(secret), "{secret}: {}", log.text());
    }
    assert!(!format!("{client:?}").contains("Geheim"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_and_the_token_serves_until_its_end() {
    let log = Log::start();
    let bench = Bench::plain().await;
    let token = bench.source.token().await.unwrap();
    let outage = || Answer::new(503).body("text/html", "<html>down</html>");
    bench.service.change(|b| b.next = vec![outage(), outage(), outage(), outage()]);
    bench.later(3599 - 200).await;
    assert_eq!(bench.source.token().await.unwrap(), token);
    assert_eq!(bench.source.token().await.unwrap(), token);
    assert_eq!(bench.service.asked(), 2, "a pause follows a failure");
    bench.later(6).await;
    assert_eq!(bench.source.token().await.unwrap(), token);
    assert_eq!(bench.service.asked(), 3);
    let state = bench.source.state();
    assert!(state.is_valid(bench.clock.now()) && state.last_error.unwrap().message.contains("503"));
    bench.later(300).await;
    let error = bench.source.token().await.unwrap_err();
    assert_eq!(error.fault, F::Unavailable);
    assert!(!bench.source.state().is_valid(bench.clock.now()));
    // the error is remembered, too, and says when it is worth another try
    let again = bench.source.token().await.unwrap_err();
    assert!(
        matches!(again.retry, Retry::Later(Some(after)) if after <= Duration::from_secs(300)),
        "{again:?}"
    );
    assert_eq!(bench.service.asked(), 4);
    bench.later(300).await;
    bench.source.token().await.unwrap_err();
    bench.later(300).await;
    bench.source.token().await.unwrap();
    assert_eq!(bench.source.state().last_error, None);
    let lines = log.lines();
    let alarms: Vec<_> = lines.iter().filter(|line| line.contains("ERROR")).collect();
    assert!(alarms.len() == 1 && alarms[0].contains("lasts for 200 s more"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("given again")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains(SECRET) || line.contains(token.expose())), "{lines:?}");
}
