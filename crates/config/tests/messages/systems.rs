//! Rules of one kind of mail system or CRM.

use super::*;

#[test]
fn exchange_online() {
    profile(ONLINE, &[], &[]);
    profile(
        ONLINE,
        &[("<UserType>Administrator</UserType>", "")],
        &[
            "E.xml:3: error: profile \"EO\": UserType is missing; give one of Administrator, User [missing-element]",
            "E.xml:3: error: profile \"EO\": AccessType belongs to outgoing Exchange with OtherSpecified and UserType \
         Administrator, or OAuth2, only [invalid-combination]",
        ],
    );
    profile(
        ONLINE,
        &[("<AccessType>SendAs</AccessType>", "")],
        &[
            "E.xml:3: error: profile \"EO\": AccessType is missing; give one of DelegateAccess, SendAs [missing-element]",
        ],
    );
    profile(
        ONLINE,
        &[("Administrator", "User"), ("<AccessType>SendAs</AccessType>", "")],
        &[
            "E.xml:3: warning: profile \"EO\": UserName has no effect: with UserType User the mailbox's address is the name \
         [ignored-element]",
        ],
    );
    profile(
        ONLINE,
        &[("<UseAutodiscover>true</UseAutodiscover>", "<UseSsl>false</UseSsl>")],
        &[
            "E.xml:3: error: profile \"EO\": ExchangeWebServicesUrl is missing; give the complete URL, which ends in \
         EWS/Exchange.asmx, or set UseAutodiscover to true [missing-element]",
            "E.xml:3: error: profile \"EO\": UseSsl cannot be used like this: ExchangeOnline always uses https; remove it \
         [invalid-combination]",
        ],
    );
    let url = |url: &str| format!("<ExchangeWebServicesUrl>{url}</ExchangeWebServicesUrl>");
    let auto = "<UseAutodiscover>true</UseAutodiscover>";
    profile(ONLINE, &[(auto, &url("https://m.example/EWS/Exchange.asmx"))], &[]);
    profile(
        ONLINE,
        &[(auto, &url("https://m.example/"))],
        &[
            "E.xml:3: warning: profile \"EO\": ExchangeWebServicesUrl does not end in EWS/Exchange.asmx; give the complete URL \
         [invalid-value]",
        ],
    );
    profile(
        ONLINE,
        &[(auto, &url("http://m.example/EWS/Exchange.asmx"))],
        &[
            "E.xml:3: error: profile \"EO\": ExchangeWebServicesUrl must begin with https:// for ExchangeOnline \
         [invalid-combination]",
        ],
    );
    profile(
        ONLINE,
        &[(auto, &url("https://me:geheim@m.example/EWS/Exchange.asmx"))],
        &[
            "E.xml:3: error: profile \"EO\": ExchangeWebServicesUrl holds a name or password; use UserName and Password instead \
         [clear-text-password]",
        ],
    );
}

#[test]
fn one_file_for_each_embedded_crm() {
    let second = EMBEDDED.replace(">D<", ">E<").replace("crm.db", ".//crm.db");
    says(
        &file("", &[], &[EMBEDDED, &second], &[], ""),
        &[
            "E.xml:6: error: deployment \"E\": Path ././/crm.db is the CRM of the deployment at line 5 already; give each \
         deployment a file of its own [shared-source]",
        ],
    );
    says(&file("", &[], &[EMBEDDED, &second.replace("crm.db", "other.db")], &[], ""), &[]);
}

#[test]
fn deployment_families() {
    let company = "<Deployment><Name>C</Name><Type>MyCompany</Type><Url>https://crm.example/Org</Url>\
                   <AccessCredentials>LocalSystemAccount</AccessCredentials></Deployment>";
    let provider = "<Deployment><Name>P</Name><Type>OnlineServiceProvider</Type><Url>https://p.example/Org</Url>\
                    <UserName>u</UserName><Password>env:P</Password></Deployment>";
    let online = "<Deployment><Name>O</Name><Type>CrmOnline</Type><Url>https://org.crm4.dynamics.com</Url>\
                  <Application><ClientId>c</ClientId><ClientSecret>env:O</ClientSecret></Application></Deployment>";
    says(&file("", &[], &[company, provider], &[], ""), &[]);
    says(
        &file("", &[], &[company, online], &[], ""),
        &[
            "E.xml:6: error: deployment \"O\": Type CrmOnline cannot stand beside deployment \"C\" of type MyCompany at line 5; \
         one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded \
         [mixed-deployment-families]",
        ],
    );
    says(
        &file("", &[], &[provider, online], &[], "").replace("https://p", "http://p"),
        &[
            "E.xml:5: error: deployment \"P\": Url begins with http://, so credentials would travel without encryption; use \
         https://, or set AllowHttp to true [unencrypted-deployment]",
            "E.xml:6: error: deployment \"O\": Type CrmOnline cannot stand beside deployment \"P\" of type \
         OnlineServiceProvider at line 5; one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or \
         Embedded [mixed-deployment-families]",
        ],
    );
    says(
        &file("", &[], &[EMBEDDED, online], &[], ""),
        &[
            "E.xml:6: error: deployment \"O\": Type CrmOnline cannot stand beside deployment \"D\" of type Embedded at line 5; \
         one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded \
         [mixed-deployment-families]",
        ],
    );
    let allow = "<AllowEmbeddedBesideOthers>true</AllowEmbeddedBesideOthers>";
    says(
        &file("", &[], &[EMBEDDED, online], &[], allow),
        &[
            "E.xml:6: warning: deployment \"O\": Type CrmOnline stands beside deployment \"D\" of type Embedded, as \
         AllowEmbeddedBesideOthers allows [mixed-deployment-families]",
        ],
    );
    // the embedded CRM in front does not open a way for the other two to mix, in whatever order they come
    let error = |line: u32, name: &str, kind: &str, other: &str, other_kind: &str, at: u32| {
        format!(
            "E.xml:{line}: error: deployment \"{name}\": Type {kind} cannot stand beside deployment \"{other}\" of type \
             {other_kind} at line {at}; one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded \
             [mixed-deployment-families]"
        )
    };
    let warning = |line: u32, name: &str, kind: &str, other: &str, other_kind: &str| {
        format!(
            "E.xml:{line}: warning: deployment \"{name}\": Type {kind} stands beside deployment \"{other}\" of type {other_kind}, \
             as AllowEmbeddedBesideOthers allows [mixed-deployment-families]"
        )
    };
    for (three, expected) in [
        (
            [EMBEDDED, company, online],
            [warning(6, "C", "MyCompany", "D", "Embedded"), error(7, "O", "CrmOnline", "C", "MyCompany", 6)],
        ),
        (
            [company, EMBEDDED, online],
            [warning(6, "D", "Embedded", "C", "MyCompany"), error(7, "O", "CrmOnline", "C", "MyCompany", 5)],
        ),
        (
            [online, company, EMBEDDED],
            [error(6, "C", "MyCompany", "O", "CrmOnline", 5), warning(7, "D", "Embedded", "O", "CrmOnline")],
        ),
    ] {
        assert_eq!(findings(&file("", &[], &three, &[], allow)), expected);
    }
    let local = online
        .replace("<Application>", "<AccessCredentials>LocalSystemAccount</AccessCredentials><Application>");
    says(
        &file("", &[], &[&local], &[], ""),
        &[
            "E.xml:5: error: deployment \"O\": AccessCredentials LocalSystemAccount cannot be used with CrmOnline; allowed: \
         OtherSpecified [invalid-combination]",
        ],
    );
    // 6.2 and 6.3: user-specified credentials depend on the edition
    let own = |base: &str| {
        let (from, to) = (
            "<AuthenticationType>Anonymous</AuthenticationType>",
            "<AuthenticationType>ClearText</AuthenticationType>",
        );
        let who = "<AccessCredentials>UserSpecified</AccessCredentials></ConfigurationProfile>";
        base.replace(from, to).replace("</ConfigurationProfile>", who)
    };
    let online_own = ONLINE
        .replace("OtherSpecified", "UserSpecified")
        .replace("<UserName>admin@a.example</UserName>", "")
        .replace("<Password>env:EO</Password>", "")
        .replace("<UserType>Administrator</UserType><AccessType>SendAs</AccessType>", "");
    for (kind, place, pop, smtp) in [
        ("MyCompany", company, true, true),
        ("OnlineServiceProvider", provider, false, true),
        ("CrmOnline", online, false, false),
        ("Embedded", EMBEDDED, true, true),
    ] {
        let refused = |mailbox: &str, profile: &str| {
            let mailbox = mailbox.replace("</Name>", "</Name><Disabled>true</Disabled>");
            let found = findings(&file("", &[profile], &[place], &[&mailbox], ""));
            let refused =
                found.iter().filter(|f| f.contains("with AccessCredentials UserSpecified cannot be used in"));
            let refused: Vec<_> = refused.collect();
            assert!(
                refused
                    .iter()
                    .all(|f| f.contains(&format!("in a deployment of type {kind}; allowed: MyCompany, ")))
            );
            assert_eq!(refused.len(), found.len(), "{found:?}");
            !refused.is_empty()
        };
        let reads = USER.replace("<OutgoingProfile>Out</OutgoingProfile>", "");
        let sends = USER.replace("<IncomingProfile>In</IncomingProfile>", "");
        assert_eq!(refused(&reads, POP), !pop, "POP3 and {kind}");
        assert_eq!(refused(&sends, &own(SMTP)), !smtp, "SMTP and {kind}");
        assert!(
            !refused(&sends.replace(">Out<", ">EO<"), &online_own),
            "outgoing Exchange Online and {kind}"
        );
    }
    let disabled = USER.replace("</Name>", "</Name><Disabled>true</Disabled>");
    says(
        &file("", &[POP, SMTP], &[provider], &[&disabled], ""),
        &[
            "E.xml:8: error: user \"Ann\": profile \"In\" (incoming Pop3) with AccessCredentials UserSpecified cannot be used in \
         a deployment of type OnlineServiceProvider; allowed: MyCompany, Embedded [invalid-combination]",
        ],
    );
}

/// Url, credentials and what else a deployment on a server says.
#[test]
fn deployments_on_servers() {
    let one = |kind: &str, url: &str, rest: &str, expected: &[&str]| {
        let deployment =
            format!("<Deployment><Name>S</Name><Type>{kind}</Type><Url>{url}</Url>{rest}</Deployment>");
        let expected: Vec<String> =
            expected.iter().map(|e| format!("E.xml:5: error: deployment \"S\": {e}")).collect();
        assert_eq!(findings(&file("", &[], &[&deployment], &[], "")), expected, "{kind} {url} {rest}");
    };
    let adfs = "<Application><ClientId>c</ClientId><Authority>https://adfs.example/</Authority>";
    let app = "<Application><ClientId>c</ClientId><ClientSecret>env:S</ClientSecret></Application>";
    let name = "<AccessCredentials>OtherSpecified</AccessCredentials><UserName>u</UserName><Password>env:P</Password>";
    for (kind, url, rest, expected) in [
        ("MyCompany", "https://crm.example/Org", name, vec![]),
        (
            "MyCompany",
            "https://crm.example/Org",
            "<AccessCredentials>LocalSystemAccount</AccessCredentials><KerberosPrincipal>R@X</KerberosPrincipal><KeytabFile>k</KeytabFile>",
            vec![],
        ),
        // an AD FS: a service user beside the application, or the application alone
        ("MyCompany", "https://org.crm.example/Org", &format!("{name}{adfs}</Application>"), vec![]),
        (
            "OnlineServiceProvider",
            "https://org.example",
            &format!("{adfs}<ClientSecret>env:S</ClientSecret></Application>"),
            vec![],
        ),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com",
            &format!("{adfs}<ClientSecret>env:S</ClientSecret></Application>"),
            vec![
                "TenantId is missing; with an Authority of its own it cannot be found out [missing-element]",
            ],
        ),
        (
            "MyCompany",
            "https://crm.example/Org",
            &format!(
                "{name}<CrmEndpoint>OrganizationService</CrmEndpoint><EmailProcessing>Router</EmailProcessing>"
            ),
            vec![
                "CrmEndpoint OrganizationService cannot be used with EmailProcessing Router, which needs the Web API; use Crm or Automatic [invalid-combination]",
            ],
        ),
        (
            "MyCompany",
            "http://crm.example/Org",
            name,
            vec![
                "Url begins with http://, so credentials would travel without encryption; use https://, or set AllowHttp to true [unencrypted-deployment]",
            ],
        ),
        (
            "MyCompany",
            "http://crm.example/Org",
            "<AccessCredentials>LocalSystemAccount</AccessCredentials><AllowHttp>true</AllowHttp>",
            vec![],
        ),
        (
            "MyCompany",
            "https://crm.example/",
            name,
            vec![
                "Url has no organization in it; give the server and the organization's unique name: https://SERVER/ORG [invalid-value]",
            ],
        ),
        (
            "MyCompany",
            "https://crm.example/Org/main.aspx",
            name,
            vec![
                "Url is the address of a page of the organization; leave out what begins with /main.aspx [invalid-value]",
            ],
        ),
        (
            "MyCompany",
            "https://crm.example/Org/XRMServices/2011/Organization.svc",
            name,
            vec![
                "Url is the address of the Organization Service; leave out what begins with /xrmservices [invalid-value]",
            ],
        ),
        ("OnlineServiceProvider", "https://org.example", name, vec![]),
        (
            "OnlineServiceProvider",
            "https://org.example/x/api/data/v9.0/",
            app,
            vec!["Url is the address of the Web API; leave out what begins with /api/data [invalid-value]"],
        ),
        (
            "OnlineServiceProvider",
            "https://org.example/?x=1",
            app,
            vec![
                "Url has a query or fragment (? or #); give the root of the organization alone [invalid-value]",
            ],
        ),
        ("CrmOnline", "https://org.crm4.dynamics.com/", app, vec![]),
        ("CrmOnline", "https://org.crm.dynamics.cn", app, vec![]),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com/Org",
            app,
            vec![
                "Url has a path; an organization of CrmOnline is a host of its own: https://ORG.crm4.dynamics.com [invalid-value]",
            ],
        ),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com:8443",
            app,
            vec!["Url has a port; CrmOnline is reached by the usual one [invalid-value]"],
        ),
        (
            "CrmOnline",
            "https://disco.crm.dynamics.com",
            app,
            vec![
                "Url is no organization of Microsoft's; give its own address, such as https://ORG.crm4.dynamics.com (ORG.crm.microsoftdynamics.us, ORG.crm.appsplatform.us and ORG.crm.dynamics.cn in the national clouds) [invalid-value]",
            ],
        ),
        (
            "CrmOnline",
            "http://org.crm4.dynamics.com",
            &format!("{app}<AllowHttp>true</AllowHttp>"),
            vec![
                "Url begins with http://, so credentials would travel without encryption; use https:// [unencrypted-deployment]",
            ],
        ),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com",
            "<UserName>u</UserName><Password>env:P</Password>",
            vec![
                "Application is missing; CrmOnline takes no user names and passwords any more: give the ClientId of an application user, and its ClientSecret or CertificateFile [missing-element]",
            ],
        ),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com",
            &format!("{app}<Cloud>China</Cloud>"),
            vec![
                "Cloud China does not go with the host of Url, which is of the cloud Public [invalid-combination]",
            ],
        ),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com",
            &format!("{app}<AuthenticationType>Ntlm</AuthenticationType>"),
            vec![
                "AuthenticationType Ntlm cannot be used with Application; allowed: OAuth2 [invalid-combination]",
            ],
        ),
        (
            "CrmOnline",
            "https://org.crm4.dynamics.com",
            &format!(
                "{app}<ApiVersion>7.1</ApiVersion><NoteColumn>New Note</NoteColumn><EmailsRemembered>0</EmailsRemembered><MaxConnections>53</MaxConnections>"
            ),
            vec![
                "ApiVersion is \"7.1\", which is not one of 8.0, 8.1, 8.2, 9.0, 9.1, 9.2 [unknown-value]",
                "NoteColumn is \"New Note\", which is no logical name of a column: lower case letters, digits and _, such as new_routernote [invalid-value]",
                "EmailsRemembered is 0; it must be between 1 and 36500 days [out-of-range]",
                "MaxConnections is 53; it must be between 1 and 52 [out-of-range]",
            ],
        ),
        (
            "OnlineServiceProvider",
            "https://org.example",
            "<OrganizationSettings><Setting>A=1</Setting><Setting>a=2</Setting><Setting>b</Setting></OrganizationSettings><UserName>u</UserName><Password>env:P</Password>",
            vec![
                "Setting a is there already; remove one [invalid-value]",
                "Setting is \"b\", which is not Name=Value [invalid-value]",
            ],
        ),
        (
            "OnlineServiceProvider",
            "https://org.example",
            &format!("{app}<UserName>u</UserName>"),
            vec!["UserName and Application exclude each other; remove one of them [invalid-combination]"],
        ),
        (
            "MyCompany",
            "https://crm.example/Org",
            &format!("<AccessCredentials>OtherSpecified</AccessCredentials>{app}"),
            vec![
                "Application cannot be used with MyCompany unless its Authority is an AD FS (and no TenantId is given); give UserName and Password [invalid-combination]",
            ],
        ),
        (
            "MyCompany",
            "https://crm.example/Org",
            &format!("<AccessCredentials>LocalSystemAccount</AccessCredentials>{app}"),
            vec![
                "Application cannot be used with AccessCredentials LocalSystemAccount; it belongs to OtherSpecified [invalid-combination]",
            ],
        ),
    ] {
        one(kind, url, rest, &expected);
    }
}

/// Two deployments may not share what is known of their organizations.
#[test]
fn one_mirror_for_each_server() {
    let server = |name: &str| {
        format!(
            "<Deployment><Name>{name}</Name><Type>OnlineServiceProvider</Type><Url>https://{name}.example</Url><UserName>u</UserName>\
                 <Password>env:P</Password><MirrorFile>m.db</MirrorFile></Deployment>"
        )
    };
    says(
        &file("", &[], &[&server("A"), &server("B")], &[], ""),
        &[
            "E.xml:6: error: deployment \"B\": MirrorFile ./m.db is the mirror of the deployment at line 5 already; give each \
         deployment a file of its own [shared-source]",
        ],
    );
}

/// What is valid by the tables of the original and not served: WebDAV.
#[test]
fn not_in_this_version() {
    let webdav = POP.replace("Pop3", "Exchange2003").replace("ClearText", "WindowsAuthentication");
    says(
        &file("", &[&webdav, SMTP], &[EMBEDDED], &[USER], ""),
        &[
            "E.xml:8: error: user \"Ann\": profile \"In\" has Protocol WebDAV, which this program does not serve; read its mailboxes \
         by POP3 or IMAP, or disable the mailbox [not-in-this-version]",
        ],
    );
    let webdav =
        webdav.replace("Exchange2003</ServerType>", "Exchange2007</ServerType><Protocol>WebDAV</Protocol>");
    says(
        &file("", &[&webdav, SMTP], &[EMBEDDED], &[USER], ""),
        &[
            "E.xml:8: error: user \"Ann\": profile \"In\" has Protocol WebDAV, which this program does not serve; use Protocol \
         ExchangeWebServices, or disable the mailbox [not-in-this-version]",
        ],
    );
    let user = USER.replace(">Out<", ">EO<");
    says(
        &file("", &[POP, ONLINE], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:3: warning: profile \"In\": ServerType Pop3 stands beside an ExchangeOnline profile at line 4; Microsoft \
         advises one router for Exchange Online and another for the rest; set AllowMixedServers to true to accept it \
         [mixed-servers]",
        ],
    );
    says(&file("", &[POP, ONLINE], &[], &[], "<AllowMixedServers>true</AllowMixedServers>"), &[]);
}

/// Every profile with Exchange Web Services of Exchange Online is told that they are gone, and no other.
#[test]
fn retired() {
    let told = |profile: &str| {
        let (settings, findings) = check(&file("", &[profile], &[], &[], ""), Path::new("E.xml"));
        assert!(settings.is_some(), "{findings:?}");
        findings.iter().any(|f| f.code == Code::Retired && f.message.contains("use Protocol MicrosoftGraph"))
    };
    assert!(told(ONLINE));
    assert!(
        !told(GRAPH)
            && !told(&ONLINE.replace(
                "ExchangeOnline</ServerType>",
                "ExchangeServer</ServerType><AuthenticationType>Ntlm</AuthenticationType>"
            ))
            && !told(POP)
    );
    assert!(told(&GRAPH.replace(
        "</ServerType>",
        "</ServerType><Protocol>ExchangeWebServices</Protocol><UseAutodiscover>true</UseAutodiscover>"
    )));
}

const GRAPH: &str = "<ConfigurationProfile><Name>G</Name><Direction>Outgoing</Direction><ServerType>ExchangeOnline</ServerType>\
    <AccessCredentials>OtherSpecified</AccessCredentials><Application><TenantId>contoso.example</TenantId><ClientId>app-1</ClientId>\
    <ClientSecret>env:APP</ClientSecret></Application></ConfigurationProfile>";

#[test]
fn applications() {
    profile(GRAPH, &[], &[]);
    let incoming = GRAPH.replace("Outgoing", "Incoming");
    profile(&incoming, &[], &[]);
    profile(
        &incoming,
        &[("</Application>", "</Application><Cloud>China</Cloud><DeleteType>HardDelete</DeleteType>")],
        &[],
    );
    profile(
        GRAPH,
        &[("env:APP", "hunter2")],
        &[
            "E.xml:3: error: ClientSecret holds a secret in clear text; write env:NAME, file:PATH, credential:NAME, or the \
         ciphertext that `email-router secret set` makes, and change the secret, since it was readable here \
         [clear-text-password]",
        ],
    );
    profile(
        GRAPH,
        &[("<ClientSecret>env:APP</ClientSecret>", "")],
        &[
            "E.xml:3: error: profile \"G\": ClientSecret is missing; give it as env:NAME, file:PATH, credential:NAME or \
         ciphertext, or give CertificateFile and PrivateKeyFile [missing-element]",
        ],
    );
    profile(
        GRAPH,
        &[("<ClientSecret>env:APP</ClientSecret>", "<CertificateFile>app.pem</CertificateFile>")],
        &[],
    );
    profile(
        GRAPH,
        &[("</ClientSecret>", "</ClientSecret><CertificateFile>app.pem</CertificateFile>")],
        &["E.xml:3: error: profile \"G\": ClientSecret and CertificateFile exclude each other; remove one \
         [invalid-combination]"],
    );
    profile(
        GRAPH,
        &[("contoso.example", "contoso/../x")],
        &[
            "E.xml:3: error: profile \"G\": TenantId is \"contoso/../x\", which is neither an id nor a domain [invalid-value]",
        ],
    );
    profile(
        GRAPH,
        &[("</ClientId>", "</ClientId><Authority>http://login.example/t</Authority>")],
        &[
            "E.xml:3: error: profile \"G\": Authority must begin with https://, since the secret travels to it [invalid-value]",
        ],
    );
    profile(
        GRAPH,
        &[(
            "</Application>",
            "</Application><AuthenticationType>ClearText</AuthenticationType><Protocol>MicrosoftGraph</Protocol>",
        )],
        &[
            "E.xml:3: error: profile \"G\": AuthenticationType ClearText cannot be used with outgoing ExchangeOnline by \
         MicrosoftGraph; allowed: OAuth2 [invalid-combination]",
        ],
    );
    profile(
        GRAPH,
        &[("</Application>", "</Application><AccessType>DelegateAccess</AccessType>")],
        &[
            "E.xml:3: error: profile \"G\": UserName is missing; AccessType DelegateAccess needs the account that sends on behalf \
         of the mailboxes [missing-element]",
        ],
    );
    profile(
        GRAPH,
        &[("</Application>", "</Application><UserType>User</UserType>")],
        &[
            "E.xml:3: error: profile \"G\": UserType cannot be used with ExchangeOnline, OAuth2 and OtherSpecified; it belongs to \
         Exchange with OtherSpecified name and password [invalid-combination]",
        ],
    );
    profile(
        GRAPH,
        &[("</Application>", "</Application><GraphUrl>http://127.0.0.1:1/v1.0</GraphUrl>")],
        &[
            "E.xml:3: error: profile \"G\": AuthenticationType OAuth2 with TlsMode None could send the access token without \
         encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true [clear-text-without-tls]",
        ],
    );
    let without = GRAPH.split("<Application>").next().unwrap().to_owned()
        + "<AuthenticationType>OAuth2</AuthenticationType></ConfigurationProfile>";
    profile(
        &without,
        &[],
        &[
            "E.xml:3: error: profile \"G\": Application is missing; AuthenticationType OAuth2 needs its TenantId, ClientId, and \
         ClientSecret or CertificateFile [missing-element]",
        ],
    );
}

#[test]
fn options_of_exchange_imap_and_kerberos() {
    profile(
        GRAPH,
        &[(
            "</Name>",
            "</Name><SaveSentItems>false</SaveSentItems><EnvelopeSender>bounces@a.example</EnvelopeSender>",
        )],
        &[
            "E.xml:3: warning: profile \"G\": SaveSentItems has no effect: it belongs to outgoing ExchangeWebServices; Microsoft \
         Graph always keeps a copy of what is sent as it is [ignored-element]",
            "E.xml:3: warning: profile \"G\": EnvelopeSender has no effect: Exchange sends every message as from its sender \
         [ignored-element]",
        ],
    );
    let imap = POP.replace("Pop3", "Imap");
    profile(&imap, &[("</Name>", "</Name><Folder>Support</Folder>")], &[]);
    profile(
        POP,
        &[(
            "</Name>",
            "</Name><Folder>Support</Folder><MailboxAccess>FullAccess</MailboxAccess><KeytabFile>k</KeytabFile>",
        )],
        &[
            "E.xml:3: warning: profile \"In\": Folder has no effect: it belongs to IMAP [ignored-element]",
            "E.xml:3: warning: profile \"In\": MailboxAccess has no effect: it belongs to ExchangeWebServices [ignored-element]",
            "E.xml:3: warning: profile \"In\": KeytabFile has no effect: it belongs to WindowsAuthentication with \
         LocalSystemAccount [ignored-element]",
        ],
    );
    let local =
        POP.replace("ClearText", "WindowsAuthentication").replace("UserSpecified", "LocalSystemAccount");
    profile(
        &local,
        &[("</Name>", "</Name><KeytabFile>k</KeytabFile><KerberosPrincipal>router@A</KerberosPrincipal>")],
        &[],
    );
    profile(
        ONLINE,
        &[(
            "</Name>",
            "</Name><TrustedAutodiscoverDomains><Domain>b.example</Domain><Domain>not one</Domain></TrustedAutodiscoverDomains>\
             <ExchangeVersion>Exchange5</ExchangeVersion>",
        )],
        &[
            "E.xml:3: error: profile \"EO\": Domain is \"not one\", which is no domain name [invalid-value]",
            "E.xml:3: error: profile \"EO\": ExchangeVersion is \"Exchange5\", which is not one of Exchange2007_SP1, Exchange2010, \
         Exchange2010_SP1, Exchange2010_SP2, Exchange2013, Exchange2013_SP1, Exchange2016 [unknown-value]",
        ],
    );
    for (proxy, expected) in [
        ("<Url>http://proxy.example:8080</Url><UserName>me</UserName><Password>env:P</Password>", None),
        ("<Url>None</Url>", None),
        (
            "<Url>http://proxy.example:8080</Url><UserName>me</UserName>",
            Some("UserName and Password of the Proxy belong together; give both or none [missing-element]"),
        ),
        (
            "<UserName>me</UserName>",
            Some("UserName and Password of the Proxy need its Url [missing-element]"),
        ),
        (
            "<Url>http://me:x@proxy.example</Url>",
            Some("Url holds a name or password; use UserName and Password instead [clear-text-password]"),
        ),
    ] {
        let expected: Vec<String> =
            expected.iter().map(|e| format!("E.xml:3: error: profile \"EO\": {e}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        profile(ONLINE, &[("</Name>", &format!("</Name><Proxy>{proxy}</Proxy>"))], &expected);
    }
}
