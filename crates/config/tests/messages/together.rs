//! Elements that contradict, repeat or name each other.

use super::*;

#[test]
fn invalid_combinations() {
    profile(
        POP,
        &[("ClearText", "CramMd5")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType CramMd5 cannot be used with incoming Pop3; allowed: Ntlm, \
         ClearText, Apop, WindowsAuthentication, OAuth2 [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("UserSpecified", "LocalSystemAccount")],
        &[
            "E.xml:3: error: profile \"In\": AccessCredentials LocalSystemAccount cannot be used with incoming Pop3 with \
         ClearText; allowed: UserSpecified, OtherSpecified [invalid-combination]",
        ],
    );
    profile(
        SMTP,
        &[("</EmailServer>", "</EmailServer><AccessCredentials>OtherSpecified</AccessCredentials>")],
        &[
            "E.xml:3: error: profile \"Out\": AccessCredentials OtherSpecified cannot be used with outgoing Smtp with \
         Anonymous; allowed: LocalSystemAccount [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("Incoming", "Outgoing")],
        &[
            "E.xml:3: error: profile \"In\": ServerType Pop3 cannot be used for outgoing mail; allowed: Smtp, ExchangeOnline, \
         ExchangeServer, Maildir [invalid-combination]",
        ],
    );
    profile(
        SMTP,
        &[(">Smtp<", ">Exchange2007<")],
        &[
            "E.xml:3: error: profile \"Out\": ServerType Exchange2007 cannot be used for outgoing mail; allowed: Smtp, \
         ExchangeOnline, ExchangeServer, Maildir; mail goes out through it by SMTP, or by ServerType ExchangeServer [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("</ServerType>", "</ServerType><Protocol>Smtp</Protocol>")],
        &["E.xml:3: error: profile \"In\": Protocol Smtp cannot be used with incoming Pop3; allowed: Pop3 \
         [invalid-combination]"],
    );
    profile(
        POP,
        &[("</Name>", "</Name><UserName>x</UserName>")],
        &[
            "E.xml:3: error: profile \"In\": UserName cannot be used with AccessCredentials UserSpecified; it belongs to \
         OtherSpecified [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("</Name>", "</Name><UserType>User</UserType>")],
        &[
            "E.xml:3: error: profile \"In\": UserType cannot be used with Pop3, ClearText and UserSpecified; it belongs to \
         Exchange with OtherSpecified name and password [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("</Name>", "</Name><UseSsl>true</UseSsl><TlsMode>None</TlsMode>")],
        &[
            "E.xml:3: error: profile \"In\": UseSsl and TlsMode say the same; remove UseSsl [invalid-combination]",
            "E.xml:3: error: profile \"In\": AuthenticationType ClearText with TlsMode None could send the password without \
         encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true [clear-text-without-tls]",
        ],
    );
}

#[test]
fn duplicate_names() {
    let again = SMTP.replace("<Name>Out", "<Name> IN ");
    says(
        &file("", &[POP, &again], &[EMBEDDED], &[], ""),
        &[
            "E.xml:4: error: there is already a profile \"IN\" at line 3; names must differ, letter case does not count \
         [duplicate-name]",
        ],
    );
    says(
        &file("", &[POP], &[EMBEDDED, &EMBEDDED.replace("crm.db", "other.db")], &[], ""),
        &[
            "E.xml:6: error: there is already a deployment \"D\" at line 5; names must differ, letter case does not count \
         [duplicate-name]",
        ],
    );
    let queue = USER.replace("User>", "Queue>").replace("ann@", "ANN@");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[USER, &queue], ""),
        &[
            "E.xml:9: error: queue \"Ann\": EmailAddress ANN@a.example belongs to the mailbox at line 8 already \
         [duplicate-name]",
        ],
    );
    says(
        &file("<MaxThreads>1</MaxThreads>\n<maxthreads>2</maxthreads>", &[], &[], &[], ""),
        &[
            "E.xml:2: error: MaxThreads appears more than once in SystemConfiguration; the first is at line 1; remove one \
         [duplicate-element]",
        ],
    );
}

#[test]
fn absent_reference() {
    let user = USER.replace(">In<", ">Inn<");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": IncomingProfile refers to profile \"Inn\", which does not exist; profiles are: In, \
         Out [unknown-reference]",
            "E.xml:8: warning: user \"Ann\": Password has no effect: no profile of this mailbox has AccessCredentials \
         UserSpecified [ignored-element]",
        ],
    );
    let deployment = EMBEDDED.replace("</Path>", "</Path><DefaultOutgoingProfile>X</DefaultOutgoingProfile>");
    says(
        &file("", &[], &[&deployment], &[], ""),
        &[
            "E.xml:5: error: deployment \"D\": DefaultOutgoingProfile refers to profile \"X\", which does not exist; profiles \
         are: none [unknown-reference]",
        ],
    );
    let user = USER.replace("</Name>", "</Name><Deployment>E</Deployment>");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": Deployment refers to \"E\", which does not exist; deployments are: D \
         [unknown-reference]",
        ],
    );
    says(
        &file("", &[POP, SMTP], &[], &[USER], ""),
        &[
            "E.xml:8: error: user \"Ann\": there is no Deployment that this mailbox could belong to; add one to Deployments \
         [missing-element]",
        ],
    );
    let second = EMBEDDED.replace(">D<", ">E<").replace("crm.db", "other.db");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED, &second], &[USER], ""),
        &["E.xml:9: error: user \"Ann\": Deployment is missing; give one of D, E [missing-element]"],
    );
}

#[test]
fn wrong_direction() {
    let user = USER.replace("<IncomingProfile>In<", "<IncomingProfile>out<");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": IncomingProfile refers to profile \"Out\", which is outgoing; it must be incoming \
         [wrong-direction]",
            "E.xml:8: warning: user \"Ann\": Password has no effect: no profile of this mailbox has AccessCredentials \
         UserSpecified [ignored-element]",
        ],
    );
    let deployment =
        EMBEDDED.replace("</Path>", "</Path><DefaultOutgoingProfile>In</DefaultOutgoingProfile>");
    says(
        &file("", &[POP], &[&deployment], &[], ""),
        &[
            "E.xml:5: error: deployment \"D\": DefaultOutgoingProfile refers to profile \"In\", which is incoming; it must be \
         outgoing [wrong-direction]",
        ],
    );
}

#[test]
fn clear_text_without_tls() {
    profile(
        POP,
        &[("</Name>", "</Name><UseSsl>False</UseSsl>")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType ClearText with TlsMode None could send the password without \
         encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true [clear-text-without-tls]",
        ],
    );
    profile(
        POP,
        &[("</Name>", "</Name><TlsMode>StartTlsIfOffered</TlsMode>")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType ClearText with TlsMode StartTlsIfOffered could send the \
         password without encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true \
         [clear-text-without-tls]",
        ],
    );
    profile(
        POP,
        &[(
            "</Name>",
            "</Name><TlsMode>None</TlsMode><AllowClearTextWithoutTls>yes</AllowClearTextWithoutTls>",
        )],
        &[],
    );
    profile(
        POP,
        &[("ClearText", "Apop"), ("</Name>", "</Name><TlsMode>None</TlsMode>")],
        &[
            "E.xml:3: warning: profile \"In\": TlsMode is None, so mail travels without encryption; set it to Implicit or \
         StartTls [unencrypted-mail]",
        ],
    );
}

#[test]
fn shared_sources() {
    let folder = "<ConfigurationProfile><Name>F</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType>\
                  <Path>mail</Path></ConfigurationProfile>";
    let one = "<User><Name>A</Name><EmailAddress>a@a.example</EmailAddress><IncomingProfile>F</IncomingProfile></User>";
    let two = one.replace("a@a", "b@a").replace(">A<", ">B<");
    says(
        &file("", &[folder], &[EMBEDDED], &[one, &two], ""),
        &[
            "E.xml:8: error: user \"B\": reads the same messages as the mailbox at line 7 (folder ./mail); give each mailbox its \
         own, for example with {address} in the profile's Path or UserName [shared-source]",
        ],
    );
    // another spelling is not another source
    let own_path = |path: &str| two.replace("</Name>", &format!("</Name><Path>{path}</Path>"));
    for path in ["mail/", ".//mail", "./mail/."] {
        let found = findings(&file("", &[folder], &[EMBEDDED], &[one, &own_path(path)], ""));
        assert!(found.len() == 1 && found[0].contains("(folder ./mail)"), "{path}: {found:?}");
    }
    says(&file("", &[folder], &[EMBEDDED], &[one, &own_path("mail/b")], ""), &[]);
    let own = folder.replace("mail<", "mail/{address}<");
    says(&file("", &[&own], &[EMBEDDED], &[one, &two], ""), &[]);
    let other = POP
        .replace("UserSpecified<", "OtherSpecified<")
        .replace("</Name>", "</Name><UserName>box</UserName><Password>env:P</Password>");
    let (one, two) = (one.replace(">F<", ">In<"), two.replace(">F<", ">In<"));
    says(
        &file("", &[&other], &[EMBEDDED], &[&one, &two], ""),
        &[
            "E.xml:8: error: user \"B\": reads the same messages as the mailbox at line 7 (box on pop.example); give each \
         mailbox its own, for example with {address} in the profile's Path or UserName [shared-source]",
        ],
    );
    let second = other.replace(">In<", ">In2<").replace("pop.example", "POP.Example.");
    let on_second = two.replace(">In<", ">In2<");
    for (port, same) in [("995", true), ("110", true), ("1995", false)] {
        let second = second.replace("</Name>", &format!("</Name><NetworkPort>{port}</NetworkPort>"));
        let found = findings(&file("", &[&other, &second], &[EMBEDDED], &[&one, &on_second], ""));
        assert_eq!(found.iter().any(|f| f.contains("(box on pop.example)")), same, "{port}: {found:?}");
    }
    let master = other.replace(">box<", ">{address}*box<");
    says(&file("", &[&master], &[EMBEDDED], &[&one, &two], ""), &[]);
}
