#!/usr/bin/env python3
"""ews-client.py EWS_URL AUTODISCOVER_URL: exchangelib at work against an EWS server.

The server has the accounts alice, bob and svc (password in EWS_PASSWORD) with the mailboxes <name>@contoso.test; svc may open both of the others and
impersonate; three messages wait in alice's inbox, the oldest with the subject "message 0". What is not as it should be ends the script with an error."""
import os
import sys

from exchangelib import DELEGATE, IMPERSONATION, Account, Configuration, Credentials, FaultTolerance, Mailbox, Message
from exchangelib.autodiscover.protocol import AutodiscoverProtocol
from exchangelib.errors import ErrorAccessDenied, ErrorFolderNotFound, ErrorImpersonateUserDenied, ErrorItemNotFound
from exchangelib.folders import Messages
from exchangelib.properties import Actions, Address, Conditions, Rule
from exchangelib.protocol import FailFast
from exchangelib.transport import BASIC
from exchangelib.version import EXCHANGE_2016, Version

URL, AUTODISCOVER = sys.argv[1:3]
PASSWORD = os.environ["EWS_PASSWORD"]


def account(name, mailbox=None, access=DELEGATE, url=URL):
    config = Configuration(
        service_endpoint=url,
        credentials=Credentials(name, PASSWORD),
        auth_type=BASIC,
        version=Version(build=EXCHANGE_2016),
        retry_policy=FailFast(),
    )
    address = f"{mailbox or name}@contoso.test"
    return Account(primary_smtp_address=address, config=config, autodiscover=False, access_type=access)


def must_fail(error, what):
    try:
        what()
    except error:
        return
    raise AssertionError(f"{error} was due")


def done(what):
    print("ok:", what)


alice = account("alice")

# list and fetch
assert alice.inbox.total_count == 3, alice.inbox.total_count
items = list(alice.inbox.all().order_by("datetime_received"))
assert sorted(i.subject for i in items) == ["message 0", "message 1", "message 2"], items
first = next(i for i in items if i.subject == "message 0")
assert b"Subject: message 0" in first.mime_content, first.mime_content
assert first.message_id == "<m0@example.com>", first.message_id
assert {h.name.lower() for h in first.headers} >= {"received", "from", "subject"}, first.headers
assert not first.is_read
done("list, fetch")

# synchronize
changes = list(alice.inbox.sync_items())
assert [kind for kind, _ in changes] == ["create"] * 3, changes
done("synchronize")

# mark as read
first.is_read = True
first.save(update_fields=["is_read"])
assert [i.subject for i in alice.inbox.all() if i.is_read] == ["message 0"]
changes = list(alice.inbox.sync_items())
assert [kind for kind, _ in changes] == ["read_flag_change"], changes
done("mark as read")

# move and delete
folder = Messages(parent=alice.msg_folder_root, name="Undeliverable")
folder.save()
second = next(i for i in alice.inbox.all() if i.subject == "message 1")
old_id = second.id
second.move(to_folder=folder)
folder.refresh()
assert folder.total_count == 1, folder.total_count
third = next(i for i in alice.inbox.all() if i.subject == "message 2")
third.move_to_trash()
alice.inbox.refresh()
assert alice.inbox.total_count == 1, alice.inbox.total_count
gone = list(alice.fetch(ids=[(old_id, None)]))
assert isinstance(gone[0], ErrorItemNotFound), gone
changes = sorted(kind for kind, _ in alice.inbox.sync_items())
assert changes == ["delete", "delete"], changes
done("move, delete")

# send
Message(account=alice, subject="by exchangelib", body="hello", to_recipients=[Mailbox(email_address="bob@contoso.test")]).send_and_save()
bob = account("bob")
assert [i.subject for i in bob.inbox.all()] == ["by exchangelib"]
assert [i.subject for i in alice.sent.all()] == ["by exchangelib"]
done("send")

# rules
rule = Rule(
    display_name="forward",
    priority=1,
    is_enabled=True,
    conditions=Conditions(sent_to_or_cc_me=True),
    actions=Actions(forward_as_attachment_to_recipients=[Address(email_address="bob@contoso.test")]),
)
alice.create_rule(rule)
(found,) = alice.rules
assert found.display_name == "forward" and found.conditions.sent_to_or_cc_me, found
assert found.actions.forward_as_attachment_to_recipients[0].email_address == "bob@contoso.test"
alice.delete_rule(found)
assert list(alice.rules) == []
done("rules")

# rights
assert account("svc", "alice").inbox.total_count == 1
assert account("svc", "alice", IMPERSONATION).inbox.total_count == 1
must_fail((ErrorAccessDenied, ErrorFolderNotFound), lambda: account("bob", "alice").inbox.total_count)
must_fail(ErrorImpersonateUserDenied, lambda: account("bob", "alice", IMPERSONATION).inbox.total_count)
done("full access, impersonation")

# autodiscover
config = Configuration(
    service_endpoint=AUTODISCOVER,
    credentials=Credentials("alice", PASSWORD),
    auth_type=BASIC,
    retry_policy=FaultTolerance(max_wait=5),
)
answer = AutodiscoverProtocol(config=config).get_user_settings(user="alice@contoso.test")
assert answer.ews_url and answer.ews_url.lower().endswith("/ews/exchange.asmx"), answer
done("autodiscover")
