//! Autodiscover, both forms.

use super::http::{Request, Response};
use super::xml::{Element, escape};
use super::{Discovery, EwsOptions, Inner, XML};

pub(super) fn autodiscover(
    inner: &Inner,
    options: &EwsOptions,
    request: &Request,
    path: &str,
    parsed: Option<Element>,
) -> Response {
    let soap = path.ends_with("/autodiscover.svc");
    if request.method != "POST"
        || (soap && options.plain_autodiscover_only)
        || !(soap || path.ends_with("/autodiscover.xml"))
    {
        return Response::new(404, "text/html", "<html><title>404</title></html>");
    }
    let name = if soap { "a:Mailbox" } else { "o:EMailAddress" };
    let Some(address) = parsed.as_ref().and_then(|p| p.find(name)).map(|e| e.text.trim().to_lowercase())
    else {
        return Response::new(500, "text/html", "<html><title>Runtime Error</title></html>");
    };
    let host = request.header("host").unwrap_or("localhost");
    let here = format!("{}://{host}/EWS/Exchange.asmx", if options.tls.is_some() { "https" } else { "http" });
    let answer = match inner.discoveries.get(&address) {
        Some(answer) => answer.clone(),
        None if inner.store.mailboxes.contains_key(&address) => {
            Discovery::Urls(Some(here.clone()), Some(here))
        }
        None => Discovery::Error,
    };
    let content = if soap { soap_discovery(&answer) } else { plain_discovery(&address, &answer) };
    Response::new(200, XML, content)
}

fn soap_discovery(answer: &Discovery) -> String {
    let setting = |name: &str, url: &Option<String>| {
        url.as_ref().map_or_else(String::new, |url| {
            format!(
                "<UserSetting xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" i:type=\"StringSetting\"><Name>{name}</Name><Value>{}</Value></UserSetting>",
                escape(url)
            )
        })
    };
    let (code, target, settings) = match answer {
        Discovery::Urls(external, internal) => (
            "NoError",
            String::new(),
            setting("ExternalEwsUrl", external) + &setting("InternalEwsUrl", internal),
        ),
        Discovery::Address(to) => ("RedirectAddress", to.clone(), String::new()),
        Discovery::Url(to) => ("RedirectUrl", to.clone(), String::new()),
        Discovery::Error => ("InvalidUser", String::new(), String::new()),
    };
    let target = if target.is_empty() {
        "<RedirectTarget xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" i:nil=\"true\"/>".to_owned()
    } else {
        format!("<RedirectTarget>{}</RedirectTarget>", escape(&target))
    };
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Header><h:ServerVersionInfo xmlns:h=\"http://schemas.microsoft.com/exchange/2010/Autodiscover\">\
         <h:MajorVersion>15</h:MajorVersion><h:MinorVersion>1</h:MinorVersion><h:MajorBuildNumber>2507</h:MajorBuildNumber><h:MinorBuildNumber>6</h:MinorBuildNumber>\
         <h:Version>Exchange2015</h:Version></h:ServerVersionInfo></s:Header><s:Body>\
         <GetUserSettingsResponseMessage xmlns=\"http://schemas.microsoft.com/exchange/2010/Autodiscover\"><Response><ErrorCode>NoError</ErrorCode><ErrorMessage/>\
         <UserResponses><UserResponse><ErrorCode>{code}</ErrorCode><ErrorMessage>{code}.</ErrorMessage>{target}<UserSettingErrors/><UserSettings>{settings}</UserSettings>\
         </UserResponse></UserResponses></Response></GetUserSettingsResponseMessage></s:Body></s:Envelope>"
    )
}

fn plain_discovery(address: &str, answer: &Discovery) -> String {
    let protocol = |kind: &str, url: &Option<String>| {
        url.as_ref().map_or_else(String::new, |url| {
            format!(
                "<Protocol><Type>{kind}</Type><Server>exchange.test</Server><EwsUrl>{}</EwsUrl></Protocol>",
                escape(url)
            )
        })
    };
    let account = match answer {
        Discovery::Urls(external, internal) => {
            format!("<Action>settings</Action>{}{}", protocol("EXCH", internal), protocol("EXPR", external))
        }
        Discovery::Address(to) => {
            format!("<Action>redirectAddr</Action><RedirectAddr>{}</RedirectAddr>", escape(to))
        }
        Discovery::Url(to) => {
            format!("<Action>redirectUrl</Action><RedirectUrl>{}</RedirectUrl>", escape(to))
        }
        Discovery::Error => {
            return "<?xml version=\"1.0\" encoding=\"utf-8\"?><Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\"><Response>\
                    <Error Time=\"12:00:00\" Id=\"1\"><ErrorCode>500</ErrorCode><Message>The email address can't be found.</Message><DebugData/></Error></Response></Autodiscover>"
                .to_owned();
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\">\
         <Response xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a\"><User><DisplayName>x</DisplayName>\
         <AutoDiscoverSMTPAddress>{}</AutoDiscoverSMTPAddress></User><Account><AccountType>email</AccountType>{account}</Account></Response></Autodiscover>",
        escape(address)
    )
}
