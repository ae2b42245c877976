//! Elements on their own: what one may hold, and those that must be there.

use super::*;

#[test]
fn unknown_value() {
    profile(
        POP,
        &[("Incoming", "Inward")],
        &[
            "E.xml:3: error: profile \"In\": Direction is \"Inward\", which is not one of Incoming, Outgoing [unknown-value]",
        ],
    );
    profile(
        POP,
        &[(">Pop3<", ">Pop4<")],
        &[
            "E.xml:3: error: profile \"In\": ServerType is \"Pop4\", which is not one of Exchange2003, Exchange2007, \
         Exchange2010Or2013, ExchangeOnline, ExchangeServer, Pop3, Imap, Smtp, Maildir [unknown-value]",
        ],
    );
    profile(
        SMTP,
        &[("</Name>", "</Name><TlsMode>Maybe</TlsMode>")],
        &["E.xml:3: error: profile \"Out\": TlsMode is \"Maybe\", which is not one of Implicit, StartTls, \
         StartTlsIfOffered, None [unknown-value]"],
    );
    profile(
        POP,
        &[("</Name>", "</Name><DeleteEmails>maybe</DeleteEmails>")],
        &[
            "E.xml:3: error: profile \"In\": DeleteEmails is \"maybe\", which is not one of true, false [unknown-value]",
        ],
    );
    // the zone is missing
    profile(
        POP,
        &[("</Name>", "</Name><ProcessEmailsReceivedAfter>2026-11-01T00:00:00</ProcessEmailsReceivedAfter>")],
        &[
            "E.xml:3: error: profile \"In\": ProcessEmailsReceivedAfter is \"2026-11-01T00:00:00\", which is no date and time with its zone, \
             such as 2026-11-01T00:00:00Z or 2026-11-01T00:00:00+01:00 [invalid-value]",
        ],
    );
    profile(
        SMTP,
        &[(
            "</Name>",
            "</Name><ProcessEmailsReceivedAfter>2026-11-01T00:00:00Z</ProcessEmailsReceivedAfter>",
        )],
        &[
            "E.xml:3: warning: profile \"Out\": ProcessEmailsReceivedAfter has no effect: it belongs to incoming profiles [ignored-element]",
        ],
    );
}

#[test]
fn missing_element() {
    profile(
        POP,
        &[("<Direction>Incoming</Direction>", "")],
        &[
            "E.xml:3: error: profile \"In\": Direction is missing; give one of Incoming, Outgoing [missing-element]",
        ],
    );
    profile(
        POP,
        &[("<Name>In</Name>", "")],
        &["E.xml:3: error: profile 1: Name is missing; give a name of its own [missing-element]"],
    );
    profile(
        POP,
        &[("<AuthenticationType>ClearText</AuthenticationType>", "")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType is missing; give one of Ntlm, ClearText, Apop, \
         WindowsAuthentication, OAuth2 [missing-element]",
        ],
    );
    profile(
        POP,
        &[("<EmailServer>pop.example</EmailServer>", "<EmailServer/>")],
        &[
            "E.xml:3: error: profile \"In\": EmailServer is missing; give the name of the server [missing-element]",
        ],
    );
    says(
        &file("", &[], &["<Deployment><Name>D</Name><Type>Embedded</Type></Deployment>"], &[], ""),
        &[
            "E.xml:5: error: deployment \"D\": Path is missing; give the SQLite file of the embedded CRM [missing-element]",
        ],
    );
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &["<Queue><Name>Q</Name></Queue>"], ""),
        &[
            "E.xml:8: error: queue \"Q\": EmailAddress is missing; give the address of the mailbox [missing-element]",
        ],
    );
    // a password may be in the store of credentials
    let user = USER.replace("<Password>env:ANN</Password>", "");
    says(&file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""), &[]);
}

#[test]
fn out_of_range() {
    let system = |inner: &str| {
        format!("<Configuration>\n <SystemConfiguration>\n  {inner}\n </SystemConfiguration></Configuration>")
    };
    for (inner, expected) in [
        ("<MaxThreads>0</MaxThreads>", "MaxThreads is 0; it must be between 1 and 10000 [out-of-range]"),
        (
            "<SchedulingPeriod>5</SchedulingPeriod>",
            "SchedulingPeriod is 5; it must be between 10 and 3600000 milliseconds [out-of-range]",
        ),
        ("<MaxThreads>-1</MaxThreads>", "MaxThreads is -1; it must be between 1 and 10000 [out-of-range]"),
        (
            "<MaxThreads>99999999999999999999999</MaxThreads>",
            "MaxThreads is 99999999999999999999999; it must be between 1 and 10000 [out-of-range]",
        ),
        ("<LogLevel>4</LogLevel>", "LogLevel is 4; it must be between 0 and 3 [out-of-range]"),
        (
            "<MaxThreads>many</MaxThreads>",
            "MaxThreads is \"many\", which is not a whole number between 1 and 10000 [invalid-value]",
        ),
        (
            "<MaxThreads>1.5</MaxThreads>",
            "MaxThreads is \"1.5\", which is not a whole number between 1 and 10000 [invalid-value]",
        ),
        (
            "<ProviderOverrides><BatchSize>0</BatchSize></ProviderOverrides>",
            "BatchSize is 0; it must be between 1 and 1000 [out-of-range]",
        ),
    ] {
        says(&system(inner), &[&format!("E.xml:3: error: {expected}")]);
    }
    profile(
        POP,
        &[("</Name>", "</Name><NetworkPort>65536</NetworkPort>")],
        &[
            "E.xml:3: error: profile \"In\": NetworkPort is 65536; it must be between 1 and 65535 [out-of-range]",
        ],
    );
}

#[test]
fn other_values() {
    profile(
        POP,
        &[("pop.example", "pop.example:995")],
        &[
            "E.xml:3: error: profile \"In\": EmailServer is \"pop.example:995\", which is not a host name or IP address; the \
         port belongs into NetworkPort [invalid-value]",
        ],
    );
    profile(POP, &[("pop.example", "[::1]")], &[]);
    profile(
        POP,
        &[("<Name>In", "<Name>none")],
        &[
            "E.xml:3: error: profile \"none\": Name is \"None\", which mailboxes use to say \"no profile\" [invalid-value]",
        ],
    );
    profile(
        POP,
        &[(
            "</Name>",
            "</Name><Path>x</Path><EhloName>x</EhloName><UseChunking>false</UseChunking><UsePipelining>maybe</UsePipelining>",
        )],
        &[
            "E.xml:3: warning: profile \"In\": Path has no effect: Pop3 does not use it [ignored-element]",
            "E.xml:3: warning: profile \"In\": EhloName has no effect: it belongs to SMTP [ignored-element]",
            "E.xml:3: warning: profile \"In\": UseChunking has no effect: it belongs to SMTP [ignored-element]",
            "E.xml:3: warning: profile \"In\": UsePipelining has no effect: it belongs to SMTP [ignored-element]",
            "E.xml:3: error: profile \"In\": UsePipelining is \"maybe\", which is not one of true, false [unknown-value]",
        ],
    );
    let no = |name: &str, element: &str, why: &str| {
        format!("E.xml:3: warning: profile \"{name}\": {element} has no effect: {why} [ignored-element]")
    };
    let with = |base: &str, elements: &[&str]| {
        let inner: String = elements
            .iter()
            .map(|e| match *e {
                "ExtraCaFiles" => "<ExtraCaFiles><File>ca.pem</File></ExtraCaFiles>".to_owned(),
                "EnvelopeSender" => "<EnvelopeSender>b@a.example</EnvelopeSender>".to_owned(),
                "AllowClearTextWithoutTls" => format!("<{e}>true</{e}>"),
                _ => format!("<{e}>1000</{e}>"),
            })
            .collect();
        file("", &[&base.replace("</Name>", &format!("</Name>{inner}"))], &[], &[], "")
    };
    let sending = [
        "PendingStatusDelay",
        "SendingStatusDelay",
        "MaximumDeliveryAttempts",
        "BatchSize",
        "RequestBatchSize",
    ];
    let network = ["ConnectionTimeout", "OperationTimeout", "AllowClearTextWithoutTls", "ExtraCaFiles"];
    let folder = "<ConfigurationProfile><Name>F</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType>\
                  <Path>mail/{address}</Path></ConfigurationProfile>";
    let outbox = folder.replace("Incoming", "Outgoing");
    let exchange = ONLINE.replace("Outgoing", "Incoming").replace("<AccessType>SendAs</AccessType>", "");
    let retrieval = ["EWSRetrieveMessageCount"];
    let to_outgoing = "it belongs to outgoing profiles";
    let to_exchange = "it belongs to incoming ExchangeWebServices";
    for (name, base, elements, why) in [
        ("In", POP, &sending[..], Some(to_outgoing)),
        ("In", POP, &["EnvelopeSender"], Some(to_outgoing)),
        ("In", POP, &retrieval, Some(to_exchange)),
        ("In", POP, &network, None),
        ("Out", SMTP, &sending, None),
        ("Out", SMTP, &retrieval, Some(to_exchange)),
        ("Out", SMTP, &["MaxConnections", "EnvelopeSender"], None),
        ("F", folder, &network, Some("Maildir uses no network")),
        ("F", folder, &["MaxConnections"], None),
        ("F", &outbox, &network, Some("Maildir uses no network")),
        ("F", &outbox, &["MaxConnections"], Some("Maildir uses no network")),
        ("F", &outbox, &["EnvelopeSender"], Some("it belongs to SMTP")),
        ("F", &outbox, &sending, None),
        ("EO", &exchange, &retrieval, None),
    ] {
        let expected: Vec<String> =
            why.into_iter().flat_map(|why| elements.iter().map(move |e| no(name, e, why))).collect();
        assert_eq!(findings(&with(base, elements)), expected, "{name} {elements:?}");
    }
    says(
        &file("", &[], &[], &[], "<StatusListener>0.0.0.0:80</StatusListener>"),
        &[
            "E.xml:9: error: StatusListener 0.0.0.0:80 can be reached from the network; use a loopback address, or set \
         AllowNetworkListener to true [network-listener]",
        ],
    );
    says(
        &file("", &[], &[], &[], "<StateFile>a</StateFile><ReferenceKeyFile>a</ReferenceKeyFile>"),
        &["E.xml:9: error: ReferenceKeyFile must be a file of its own, neither StateFile nor SecretKeyFile \
             [invalid-value]"],
    );
    says(
        &file("", &[], &[], &[], "<StatusListener>localhost</StatusListener>"),
        &[
            "E.xml:9: error: StatusListener must be an IP address and a port, such as 127.0.0.1:9462 or [::1]:9462 \
         [invalid-value]",
        ],
    );
    let user = USER.replace("ann@a.example", "ann");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": EmailAddress: \"ann\" is not an address of the form local-part@domain \
         [invalid-value]",
        ],
    );
}
