//! From what the token service says to what happened and what to do.

use std::time::Duration;

use email_router_auth::{CredentialError, CredentialFault};
use email_router_model::{Classified as _, Redactor, Retry, Scope};

use super::proto::Refusal;
use super::settings::Hinted as _;
use crate::{Error, ErrorKind, StatusCode};

/// An error number of Entra ID that an application can meet.
struct Known {
    number: u32,
    what: What,
    hint: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// The identity, its proof or its permissions.
    Refused,
    /// Tenant, scope or addresses.
    Settings,
    /// It passes.
    Passing,
    /// Too many requests.
    Throttled,
}

/// Sorted by number. The numbers are those of Microsoft's list of authentication and authorization error codes, the advice is ours.
const KNOWN: &[Known] = {
    use What::{Passing, Refused, Settings, Throttled};
    const fn k(number: u32, what: What, hint: &'static str) -> Known {
        Known { number, what, hint }
    }
    &[
        k(
            50001,
            Settings,
            "the service behind the scope is not known in this tenant: check scope and cloud, and that the tenant has Exchange Online",
        ),
        k(
            50012,
            Refused,
            "the client assertion was not accepted: register the certificate with the application and check this machine's clock",
        ),
        k(
            50013,
            Refused,
            "the client assertion was not accepted: check the certificate, the tenant, and this machine's clock",
        ),
        k(50020, Refused, "the account is of another tenant: check the tenant id"),
        k(50034, Refused, "the account is not known in this tenant: check tenant and client id"),
        k(50049, Settings, "there is no such cloud instance: check the cloud"),
        k(50059, Settings, "the request names no tenant: set the directory (tenant) id"),
        k(
            50105,
            Refused,
            "the application's enterprise entry demands an assignment that it does not have: assign it, or turn that demand off",
        ),
        k(50128, Settings, "there is no such domain name: check the tenant"),
        k(
            50196,
            Throttled,
            "the same request came too often: see whether other programs use this application, and wait some minutes",
        ),
        k(
            53000,
            Refused,
            "a conditional access policy demands a managed device: exclude this application (workload identity) from it",
        ),
        k(
            53003,
            Refused,
            "a conditional access policy blocks the application: allow it, or this machine's address, in the policy for workload identities",
        ),
        k(
            65001,
            Refused,
            "an administrator has not consented: in the application's API permissions choose \"Grant admin consent\"",
        ),
        k(70001, Refused, "the application is disabled or not installed in this tenant"),
        k(
            70011,
            Settings,
            "the scope is not valid: it ends with /.default, as https://outlook.office365.com/.default",
        ),
        k(
            90002,
            Settings,
            "there is no such tenant in this cloud: check the directory (tenant) id, and whether the cloud is the right one",
        ),
        k(
            90013,
            Settings,
            "the service did not understand the request: check tenant, client id and scope for stray characters",
        ),
        k(
            90014,
            Settings,
            "a field is missing in the request: check that client id, secret and scope are all set",
        ),
        k(90019, Settings, "the request names no tenant: set the directory (tenant) id"),
        k(
            90033,
            Passing,
            "the directory behind the token service has a short outage: nothing to do but wait",
        ),
        k(
            90036,
            Passing,
            "the token service had an unexpected fault: nothing to do but wait; if it lasts, ask Microsoft",
        ),
        k(90051, Settings, "the delegation endpoint was reached: check the authority"),
        k(90055, Throttled, "the tenant makes too many requests: see whether other programs ask too often"),
        k(90072, Refused, "the account is of another tenant: check the tenant id"),
        k(
            90093,
            Refused,
            "an administrator must consent: in the application's API permissions choose \"Grant admin consent\"",
        ),
        k(
            130_004,
            Refused,
            "the application's principal is disabled in this tenant: enable it under enterprise applications",
        ),
        k(
            500_011,
            Settings,
            "the service of the scope has no principal in this tenant: check scope and cloud, and that the tenant has Exchange Online",
        ),
        k(
            500_014,
            Refused,
            "the service of the scope is disabled in this tenant: enable its enterprise application, or renew the subscription",
        ),
        k(
            500_021,
            Refused,
            "the proxy between here and the token service restricts tenants: allow this one there",
        ),
        k(
            501_051,
            Refused,
            "the application has no role at the service of the scope: add the permission and grant admin consent",
        ),
        k(
            530_004,
            Refused,
            "a conditional access policy needs a compliance partner that is not set up: exclude this application",
        ),
        k(
            650_052,
            Settings,
            "the tenant has no subscription to the service of the scope, or nobody consented to it",
        ),
        k(
            700_016,
            Refused,
            "the application is not known in this tenant: check client id, tenant and cloud; an application of another tenant must be consented to here first",
        ),
        k(700_021, Refused, "the client assertion is for another token service: check authority and tenant"),
        k(700_023, Refused, "the audience of the client assertion is wrong: check authority and tenant"),
        k(700_024, Refused, "the client assertion was out of its time: set this machine's clock"),
        k(
            700_027,
            Refused,
            "the certificate is not registered with the application: upload it under Certificates & secrets and compare the thumbprints",
        ),
        k(
            700_030,
            Refused,
            "the certificate is not acceptable: make one with an RSA key of at least 2048 bits and register it with the application",
        ),
        k(
            900_023,
            Settings,
            "the tenant is neither an id nor a domain: copy the directory (tenant) id of the application's overview page",
        ),
        k(
            900_144,
            Settings,
            "a field is missing in the request: check that client id, secret and scope are all set",
        ),
        k(900_382, Settings, "the application belongs to another cloud: set the cloud it was registered in"),
        k(
            900_439,
            Settings,
            "the token service of this cloud does not serve the tenant: choose the tenant's own cloud (Public, UsGovernment, UsDefense, China)",
        ),
        k(
            1_002_012,
            Settings,
            "the scope is not valid for an application: it ends with /.default, as https://outlook.office365.com/.default",
        ),
        k(
            7_000_112,
            Refused,
            "the application is disabled: an administrator must enable its enterprise application",
        ),
        k(
            7_000_114,
            Refused,
            "the application may not use this way to log in: check its authentication settings",
        ),
        k(
            7_000_215,
            Refused,
            "the client secret is wrong: enter its value, not its id; where the value is lost, make a new secret",
        ),
        k(7_000_216, Settings, "neither a secret nor a certificate arrived: set one of them"),
        k(7_000_218, Settings, "neither a secret nor a certificate arrived: set one of them"),
        k(
            7_000_222,
            Refused,
            "the client secret has expired: make a new one under Certificates & secrets and enter its value",
        ),
        k(
            7_000_229,
            Refused,
            "the application has no principal in this tenant: an administrator must consent to it there",
        ),
    ]
};

/// What to do about an error number of Entra ID (`7000215` for AADSTS7000215); `None` where the number is not known here.
#[must_use]
pub fn explain(number: u32) -> Option<&'static str> {
    known(number).map(|k| k.hint)
}

fn known(number: u32) -> Option<&'static Known> {
    KNOWN.binary_search_by_key(&number, |k| k.number).ok().map(|at| &KNOWN[at])
}

/// The token service answered with an error.
pub(super) fn refused(
    place: &str,
    status: StatusCode,
    refusal: &Refusal,
    retry_after: Option<Duration>,
    secrets: &Redactor,
) -> CredentialError {
    let known = refusal.number.and_then(known);
    let passing = status.is_server_error() || refusal.error == "temporarily_unavailable";
    let what = if status == StatusCode::TOO_MANY_REQUESTS || (passing && retry_after.is_some()) {
        What::Throttled
    } else if let Some(known) = known {
        known.what
    } else if passing {
        What::Passing
    } else {
        What::Refused
    };
    let (fault, retry) = match what {
        What::Refused => (CredentialFault::Refused, Retry::Never),
        What::Settings => (CredentialFault::Settings, Retry::Never),
        What::Passing => (CredentialFault::Unavailable, Retry::Later(retry_after)),
        What::Throttled => (CredentialFault::Throttled, Retry::Later(retry_after)),
    };
    let words = Refusal {
        error: secrets.clean_excerpt(&refusal.error),
        description: secrets.clean_excerpt(&refusal.description),
        ..refusal.clone()
    };
    let hint = match (known, what) {
        (Some(known), _) => Some(known.hint.to_owned()),
        (None, What::Refused | What::Settings) => {
            let number = refusal.number.map_or_else(|| "the error".to_owned(), |n| format!("AADSTS{n}"));
            Some(format!("look {number} up in Microsoft's list of authentication error codes"))
        }
        (None, What::Passing) => Some(
            "the token service is not well: nothing to do but wait; if it lasts, look at the state of Microsoft's services".to_owned(),
        ),
        (None, What::Throttled) => Some("the token service is asked too often, or not well: nothing to do but wait".to_owned()),
    };
    CredentialError {
        fault,
        message: format!("{place} gives no token: {words}"),
        hint,
        retry,
        scope: Scope::Server,
    }
}

/// Something answered that does not speak as a token service: a proxy's page, a wrong address.
pub(super) fn nonsense(
    place: &str,
    status: StatusCode,
    why: &str,
    retry_after: Option<Duration>,
) -> CredentialError {
    let fault = if status == StatusCode::TOO_MANY_REQUESTS {
        CredentialFault::Throttled
    } else {
        CredentialFault::Unavailable
    };
    CredentialError {
        fault,
        message: format!("{place} gives no token: status {}, {why}", status.as_u16()),
        hint: None,
        retry: Retry::Later(retry_after),
        scope: Scope::Server,
    }
    .hinted("check the authority, and that no proxy answers in its place")
}

/// No answer came.
pub(super) fn unreachable(cause: &Error) -> CredentialError {
    let fault = match cause.kind() {
        ErrorKind::Settings => CredentialFault::Settings,
        _ => CredentialFault::Unavailable,
    };
    CredentialError {
        fault,
        message: format!("no token: {cause}"),
        hint: cause.hint().map(str::to_owned),
        retry: match cause.retry() {
            Retry::Never if cause.kind() == ErrorKind::TooLarge => Retry::Later(None),
            retry => retry,
        },
        scope: Scope::Server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_says_something() {
        assert!(KNOWN.windows(2).all(|pair| pair[0].number < pair[1].number));
        for number in [
            7_000_215, 7_000_222, 700_016, 90_002, 700_027, 50_034, 53_003, 65_001, 1_002_012, 500_011,
            900_023, 90_013,
        ] {
            assert!(explain(number).is_some_and(|hint| hint.len() > 30), "{number}");
        }
        assert_eq!(explain(1), None);
    }

    #[test]
    fn kinds_and_retries() {
        use CredentialFault as F;
        let minute = Some(Duration::from_secs(60));
        let mut secrets = Redactor::default();
        secrets.add("s3cr3t");
        for (status, error, number, after, fault, retry) in [
            (401, "invalid_client", Some(7_000_215), None, F::Refused, Retry::Never),
            (400, "invalid_request", Some(90_002), None, F::Settings, Retry::Never),
            (400, "invalid_client", Some(1), None, F::Refused, Retry::Never),
            (400, "invalid_client", None, None, F::Refused, Retry::Never),
            (400, "temporarily_unavailable", Some(90_033), None, F::Unavailable, Retry::Later(None)),
            (400, "invalid_grant", Some(50_196), None, F::Throttled, Retry::Later(None)),
            (429, "invalid_request", Some(90_055), minute, F::Throttled, Retry::Later(minute)),
            (429, "too_many", None, None, F::Throttled, Retry::Later(None)),
            (503, "temporarily_unavailable", None, minute, F::Throttled, Retry::Later(minute)),
            (500, "server_error", None, None, F::Unavailable, Retry::Later(None)),
        ] {
            let refusal = Refusal {
                error: error.to_owned(),
                number,
                // cut in the middle of the secret
                description: "AADSTS1: the secret s3cr3t of 'app', s3cr".to_owned(),
                trace_id: "0a-b1".to_owned(),
            };
            let status = StatusCode::from_u16(status).unwrap();
            let got = refused("https://sts.test", status, &refusal, after, &secrets);
            assert_eq!((got.fault, got.retry), (fault, retry), "{status} {error} {number:?}");
            assert!(got.message.contains("AADSTS1") && !format!("{got:?}").contains("s3cr"), "{got}");
            assert!(got.message.ends_with("*** (trace id 0a-b1)"), "{got}");
            assert!(got.hint.is_some() || matches!(got.retry, Retry::Later(_)));
        }
    }
}
