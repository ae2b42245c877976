//! The token source against a token service that behaves as Entra ID does, and against one that does not.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::time::Duration;

use email_router_auth::{CredentialFault as F, CredentialSource as _, Credentials};
use email_router_http::oauth::{
    AssertionAlgorithm, ClientCertificate, ClientProof, Cloud, OAuthSettings, explain,
};
use email_router_model::{Clock as _, Mailbox, MailboxKind, Retry};
use email_router_testkit::http::{Act, Answer};
use email_router_testkit::oauth::{
    AD_FS_PASSWORD, AD_FS_USER, TENANT_DOMAIN, TEST_CERTIFICATE, TEST_KEY, refusal,
};
use futures_util::FutureExt as _;
use support::bench::{Bench, SECRET};

fn certificate(algorithm: AssertionAlgorithm) -> ClientProof {
    let pem = (TEST_CERTIFICATE.as_bytes(), TEST_KEY.as_bytes());
    ClientProof::Certificate(ClientCertificate::from_pem(pem.0, pem.1, algorithm).unwrap())
}

fn mailbox() -> Mailbox {
    Mailbox {
        id: "ann".into(),
        kind: MailboxKind::User,
        name: "Ann".to_owned(),
        address: "ann@contoso.test".parse().unwrap(),
        login: Some("CONTOSO\\ann".to_owned()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_or_a_certificate_gives_each_mailbox_the_same_token() {
    for proof in [
        ClientProof::Secret(SECRET.into()),
        certificate(AssertionAlgorithm::Ps256),
        certificate(AssertionAlgorithm::Rs256),
    ] {
        let bench = Bench::new(|mut settings| {
            settings.proof = proof;
            settings.tenant = TENANT_DOMAIN.to_owned();
            settings
        })
        .await;
        let given = bench.source.credentials(&mailbox()).await.unwrap().unwrap();
        assert_eq!(given.user, "ann@contoso.test");
        assert!(bench.service.accepts(given.token().unwrap().expose()));
        let again = bench.source.clone().credentials(&mailbox()).await.unwrap().unwrap();
        assert_eq!((again, bench.service.asked()), (given.clone(), 1));
        let shown = format!("{:?} {:?}", bench.source, bench.source.state());
        assert!(!shown.contains(SECRET) && !shown.contains(given.token().unwrap().expose()), "{shown}");
        assert!(bench.source.state().is_valid(bench.clock.now()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_make_one_request_and_the_first_may_go() {
    let bench = Bench::plain().await;
    let first = tokio::spawn({
        let source = bench.source.clone();
        async move { source.token().await }
    });
    tokio::task::yield_now().await;
    let others: Vec<_> = (0..1000)
        .map(|_| {
            let source = bench.source.clone();
            tokio::spawn(async move { source.token().await })
        })
        .collect();
    tokio::task::yield_now().await;
    first.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(bench.service.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_who_wait_have_gone_the_next_one_asks_anew() {
    let bench = Bench::plain().await;
    bench.service.change(|b| b.next.push(Answer::acts(vec![Act::Silence])));
    let waiting = tokio::spawn({
        let source = bench.source.clone();
        async move { source.token().await }
    });
    while bench.service.asked() == 0 {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    bench.source.token().await.unwrap();
    assert_eq!(bench.service.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_before_it_expires() {
    let bench = Bench::plain().await;
    let first = bench.source.token().await.unwrap();
    bench.later(3599 - 301).await;
    assert_eq!(bench.source.token().await.unwrap(), first);
    bench.later(2).await;
    let second = bench.source.token().await.unwrap();
    assert_ne!(second, first);
    assert_eq!(bench.service.asked(), 2);
    // a margin never eats more than half of a short lifetime
    bench.service.change(|b| b.lifetime = 60);
    bench.later(3599).await;
    let short = bench.source.token().await.unwrap();
    bench.later(29).await;
    assert_eq!(bench.source.token().await.unwrap(), short);
    bench.later(2).await;
    assert_ne!(bench.source.token().await.unwrap(), short);
}

#[tokio::test(start_paused = true)]
async fn a_slow_renewal_holds_only_one_up() {
    let bench = Bench::plain().await;
    let first = bench.source.token().await.unwrap();
    bench.later(3599 - 100).await;
    bench.service.change(|b| b.next.push(Answer::acts(vec![Act::Silence])));
    let renewing = tokio::spawn({
        let source = bench.source.clone();
        async move { source.token().await }
    });
    while bench.service.asked() == 1 {
        tokio::task::yield_now().await;
    }
    let others = futures_util::future::join_all((0..100).map(|_| bench.source.token()));
    assert!(others.now_or_never().unwrap().into_iter().all(|token| token.as_ref() == Ok(&first)));
    // the service does not answer, and the present token is still good
    assert_eq!(renewing.await.unwrap(), Ok(first));
    assert_eq!(bench.service.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed() {
    let bench = Bench::plain().await;
    let busy =
        refusal(429, "temporarily_unavailable", 90_055, "Too many requests.").header("Retry-After", "77");
    bench.service.change(|b| b.next.push(busy));
    let error = bench.source.token().await.unwrap_err();
    assert_eq!((error.fault, error.retry), (F::Throttled, Retry::Later(Some(Duration::from_secs(77)))));
    bench.later(70).await;
    let error = bench.source.token().await.unwrap_err();
    assert_eq!(bench.service.asked(), 1);
    assert!(matches!(error.retry, Retry::Later(Some(left)) if left <= Duration::from_secs(7)), "{error:?}");
    bench.later(8).await;
    bench.source.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_dropped_once_and_never_a_newer_one() {
    let bench = Bench::plain().await;
    let (source, mailbox) = (&bench.source, mailbox());
    let first = source.credentials(&mailbox).await.unwrap().unwrap();
    source.refused(&mailbox, &Credentials::bearer("ann@contoso.test", "another".into()));
    source.refused(&mailbox, &Credentials::new("ann@contoso.test", "password".into()));
    assert_eq!(source.credentials(&mailbox).await.unwrap().unwrap(), first);
    source.refused(&mailbox, &first);
    let second = source.credentials(&mailbox).await.unwrap().unwrap();
    assert_ne!(second, first);
    // a late refusal of the old one, and one of the new one right away: a mailbox without permission is no reason to ask again
    source.refused(&mailbox, &first);
    source.refused(&mailbox, &second);
    assert_eq!(source.credentials(&mailbox).await.unwrap().unwrap(), second);
    assert_eq!(bench.service.asked(), 2);
    bench.later(61).await;
    source.refused(&mailbox, &second);
    assert_ne!(source.credentials(&mailbox).await.unwrap().unwrap(), second);
}

#[tokio::test(start_paused = true)]
async fn what_entra_refuses_is_explained() {
    type Change = fn(&mut OAuthSettings);
    for (change, number, fault) in [
        ((|s| s.proof = ClientProof::Secret("wr0ng-s3cr3t".into())) as Change, 7_000_215, F::Refused),
        (|_| {}, 7_000_222, F::Refused),
        (|s| s.proof = certificate(AssertionAlgorithm::Ps256), 700_027, F::Refused),
        (|s| s.client_id = "another".to_owned(), 700_016, F::Refused),
        (|s| s.tenant = "fabrikam.test".to_owned(), 90_002, F::Settings),
        (|s| s.tenant = "nonsense".to_owned(), 900_023, F::Settings),
    ] {
        let bench = Bench::new(|mut settings| {
            change(&mut settings);
            settings
        })
        .await;
        bench.service.change(|b| (b.secret_expired, b.certificate_registered) = (true, false));
        let error = bench.source.token().await.unwrap_err();
        assert!(error.message.contains(&format!("AADSTS{number}")), "{error}");
        assert_eq!((error.fault, error.retry), (fault, Retry::Never));
        assert_eq!(error.hint.as_deref(), explain(number));
        assert!(!format!("{error:?} {:?}", bench.source).contains("s3cr3t"), "{error:?}");
        // a thousand mailboxes with a wrong secret do not lock the application out
        assert_eq!(bench.source.token().await.unwrap_err(), error);
        assert_eq!(bench.service.asked(), 1);
        bench.later(61).await;
        bench.source.token().await.unwrap_err();
        assert_eq!(bench.service.asked(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_service_is_not_believed() {
    let json = |text: &str| Answer::new(200).body("application/json", text);
    let good = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"abc"}"#;
    let drip = vec![
        Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".to_vec()),
        Act::Drip(b" ".to_vec(), Duration::from_secs(9)),
    ];
    for (answer, word) in [
        (Answer::new(200).body("text/html", "<html>Please sign in</html>"), "JSON"),
        (Answer::new(302).header("Location", "https://elsewhere.test/"), "302"),
        (Answer::new(404).body("text/html", "<html>"), "404"),
        (json(r#"{"token_type":"Bearer","access_token":"abc"}"#), "how long"),
        (json(r#"{"token_type":"DPoP","expires_in":1,"access_token":"abc"}"#), "Bearer"),
        (json(&" ".repeat(300 * 1024)), "bytes"),
        (Answer::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{good}")), "lost"),
        (Answer::raw("SSH-2.0-OpenSSH\r\n"), "HTTP"),
        (Answer::acts(vec![Act::Close]), "lost"),
        (Answer::acts(vec![Act::Silence]), "time"),
        (Answer::acts(drip), "time"),
    ] {
        let bench = Bench::plain().await;
        bench.service.change(|b| b.next.push(answer.clone()));
        let error = bench.source.token().await.unwrap_err();
        assert_eq!(error.fault, F::Unavailable, "{answer:?}: {error}");
        assert!(matches!(error.retry, Retry::Later(_)), "{answer:?}: {error:?}");
        assert!(error.message.contains(word), "{answer:?}: {error}");
        bench.later(301).await;
        bench.source.token().await.unwrap();
    }
}

/// `crm-contract.md` 10.2: another address, `resource` in place of `scope`, and a service user where the application alone is nobody in the CRM.
#[tokio::test(start_paused = true)]
async fn ad_fs_gives_tokens_to_a_user_and_to_an_application() {
    let account = |password: &str| ClientProof::Account {
        user: AD_FS_USER.to_owned(),
        password: password.into(),
        secret: None,
    };
    let bench = async |proof: ClientProof| {
        Bench::new(|settings| {
            let authority = settings.authority.clone().unwrap();
            OAuthSettings::ad_fs(authority, "https://contoso.example/", settings.client_id, proof)
        })
        .await
    };
    for proof in [account(AD_FS_PASSWORD), ClientProof::Secret(SECRET.into())] {
        let bench = bench(proof).await;
        let token = bench.source.token().await.unwrap();
        assert!(bench.service.accepts(token.expose()));
    }
    let refused = bench(account("wr0ng+password")).await;
    let error = refused.source.token().await.unwrap_err();
    assert_eq!(error.fault, F::Refused);
    assert!(error.message.contains("MSIS9659"), "{error}");
    assert!(!format!("{error} {error:?} {:?}", refused.source).contains("wr0ng"), "{error:?}");
    // Entra ID takes no such user, and no password is sent there
    let settings = OAuthSettings::new(Cloud::Public, TENANT_DOMAIN, "app", account(AD_FS_PASSWORD));
    assert!(settings.token_endpoint().unwrap_err().message.contains("user"));
}
