//! Tables and columns, after the Web API reference (`crm-contract.md` 5).

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
    /// At most so many UTF-16 units; whether its format is Email.
    Text(usize, bool),
    Memo,
    Number,
    Flag,
    Time,
    /// The tables it may point to.
    Lookup(Vec<&'static str>),
    Binary,
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Callers may not write it.
    pub(super) read_only: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) set: &'static str,
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) party: bool,
    pub(super) owned: bool,
    pub(super) columns: Vec<Column>,
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The name by which a lookup is bound to a record of a table; `None`: it cannot point there.
    pub(super) fn navigation(&self, column: &Column, target: &str) -> Option<String> {
        let Kind::Lookup(targets) = &column.kind else { return None };
        targets.contains(&target).then(|| match (self.name, column.name) {
            (_, "ownerid") => "ownerid".to_owned(),
            ("email", "regardingobjectid") => format!("regardingobjectid_{target}_email"),
            _ if targets.len() == 1 => column.name.to_owned(),
            _ => format!("{}_{target}", column.name),
        })
    }
}

/// name, set, id, title, is a party, has an owner, columns. Of a column: `t100` text, `e100` e-mail address, `m` memo, `n` number, `f` flag, `d` time,
/// `l` lookup to the tables that follow, `x` bytes; `!` read-only.
const TABLES: &[(&str, &str, &str, &str, bool, bool, &str)] = &[
    (
        "systemuser",
        "systemusers",
        "systemuserid",
        "fullname",
        true,
        false,
        "fullname:t200 internalemailaddress:e100 personalemailaddress:e100 isdisabled:f incomingemaildeliverymethod:n outgoingemaildeliverymethod:n \
      emailrouteraccessapproval:n domainname:t1024 queueid:l:queue defaultmailbox:l:mailbox",
    ),
    (
        "usersettings",
        "usersettingscollection",
        "systemuserid",
        "systemuserid",
        false,
        false,
        "incomingemailfilteringmethod:n issendasallowed:f trackingtokenid:n nexttrackingnumber:n",
    ),
    (
        "queue",
        "queues",
        "queueid",
        "name",
        true,
        true,
        "name:t200 emailaddress:e100 statecode:n statuscode:n incomingemaildeliverymethod:n outgoingemaildeliverymethod:n \
      emailrouteraccessapproval:n incomingemailfilteringmethod:n defaultmailbox:l:mailbox",
    ),
    (
        "mailbox",
        "mailboxes",
        "mailboxid",
        "name",
        false,
        true,
        "name:t160 emailaddress:e100 isforwardmailbox:f enabledforincomingemail:f enabledforoutgoingemail:f incomingemaildeliverymethod:n \
      outgoingemaildeliverymethod:n statecode:n regardingobjectid:l:systemuser,queue",
    ),
    (
        "contact",
        "contacts",
        "contactid",
        "fullname",
        true,
        true,
        "fullname:t160! firstname:t50 lastname:t50 emailaddress1:e100 emailaddress2:e100 emailaddress3:e100 statecode:n statuscode:n",
    ),
    (
        "account",
        "accounts",
        "accountid",
        "name",
        true,
        true,
        "name:t160 emailaddress1:e100 emailaddress2:e100 emailaddress3:e100 statecode:n statuscode:n",
    ),
    (
        "lead",
        "leads",
        "leadid",
        "fullname",
        true,
        true,
        "fullname:t160! firstname:t50 lastname:t50 subject:t300 emailaddress1:e100 emailaddress2:e100 statecode:n statuscode:n",
    ),
    (
        "new_patient",
        "new_patients",
        "new_patientid",
        "new_name",
        true,
        true,
        "new_name:t100 new_email:e100 statecode:n statuscode:n",
    ),
    ("team", "teams", "teamid", "name", false, false, "name:t160 emailaddress:e100"),
    ("incident", "incidents", "incidentid", "title", false, true, "title:t200 statecode:n statuscode:n"),
    (
        "organization",
        "organizations",
        "organizationid",
        "name",
        false,
        false,
        "name:t160 emailconnectionchannel:n emailcorrelationenabled:f enablesmartmatching:f trackingprefix:t256 trackingtokenidbase:n \
      trackingtokeniddigits:n maximumtrackingnumber:n hashfilterkeywords:m hashmaxcount:n hashdeltasubjectcount:n hashminaddresscount:n \
      ignoreinternalemail:f requireapprovalforuseremail:f requireapprovalforqueueemail:f allowunresolvedpartiesonemailsend:f \
      unresolveemailaddressifmultiplematch:f resolvesimilarunresolvedemailaddress:f maxuploadfilesize:n blockedattachments:m orgdborgsettings:m",
    ),
    (
        "email",
        "emails",
        "activityid",
        "subject",
        false,
        true,
        "subject:t800 description:m directioncode:f statecode:n statuscode:n mimetype:t256 messageid:t320 inreplyto:t320! conversationindex:t2048! \
      correlationmethod:n! trackingtoken:t50 sender:t250 torecipients:t500 submittedby:t250 prioritycode:n deliveryprioritycode:n \
      deliveryattempts:n delayedemailsendtime:d senton:d! actualend:d deliveryreceiptrequested:f readreceiptrequested:f notifications:n \
      isduplicatesenderunresolved:f category:t250 subcategory:t250 new_routernote:t4000 regardingobjectid:l:account,contact,lead,incident,new_patient \
      correlatedactivityid:l:email parentactivityid:l:email acceptingentityid:l:queue,systemuser receivingmailboxid:l:mailbox emailsender:l!:queue,systemuser",
    ),
    (
        "activityparty",
        "activityparties",
        "activitypartyid",
        "addressused",
        false,
        false,
        "participationtypemask:n addressused:t320 unresolvedpartyname:t200 activityid:l:email \
      partyid:l:systemuser,queue,contact,account,lead,new_patient ispartydeleted:f! donotemail:f!",
    ),
    (
        "activitymimeattachment",
        "activitymimeattachments",
        "activitymimeattachmentid",
        "filename",
        false,
        false,
        "filename:t255 mimetype:t256 subject:t2000 body:x attachmentnumber:n attachmentcontentid:t250 filesize:n! objecttypecode:t64 \
      objectid:l:email,activitypointer",
    ),
    (
        "queueitem",
        "queueitems",
        "queueitemid",
        "title",
        false,
        false,
        "title:t300 statecode:n enteredon:d! queueid:l:queue objectid:l:email,incident",
    ),
];

/// All tables.
pub(super) fn tables() -> Vec<Table> {
    TABLES
        .iter()
        .map(|&(name, set, id, title, party, owned, columns)| {
            let mut all = vec![Column { name: id, kind: Kind::Id, read_only: false }];
            all.extend(columns.split_whitespace().map(column));
            let times = ["createdon", "modifiedon"];
            all.extend(times.map(|name| Column { name, kind: Kind::Time, read_only: true }));
            if owned {
                all.push(Column {
                    name: "ownerid",
                    kind: Kind::Lookup(vec!["systemuser", "team"]),
                    read_only: false,
                });
            }
            Table { name, set, id, title, party, owned, columns: all }
        })
        .collect()
}

fn column(text: &'static str) -> Column {
    let mut parts = text.split(':');
    let (name, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (kind, read_only) = (kind.trim_end_matches('!'), kind.ends_with('!'));
    let length = || kind[1..].parse().unwrap_or_default();
    let kind = match kind.as_bytes()[0] {
        b't' => Kind::Text(length(), false),
        b'e' => Kind::Text(length(), true),
        b'm' => Kind::Memo,
        b'n' => Kind::Number,
        b'f' => Kind::Flag,
        b'd' => Kind::Time,
        b'l' => Kind::Lookup(parts.next().unwrap_or_default().split(',').collect()),
        _ => Kind::Binary,
    };
    Column { name, kind, read_only }
}
