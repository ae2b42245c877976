"""dataverse-client.py BASE TOKEN: drives a Dataverse organization with Microsoft's SDK for Python (PowerPlatform-Dataverse-Client).

BASE is https:; REQUESTS_CA_BUNDLE names its authority. Prints one JSON object that tells what the SDK saw."""
import json
import sys
import time

from azure.core.credentials import AccessToken
from PowerPlatform.Dataverse.client import DataverseClient

base, token = sys.argv[1:]


class Credential:
    def get_token(self, *scopes, **options):
        return AccessToken(token, int(time.time()) + 3600)


saw = {}
with DataverseClient(base, Credential()) as client:
    key = client.records.create("contact", {"firstname": "Ann", "lastname": "O'Hara", "emailaddress1": "ann@example.com"})
    saw["made"] = len(key)
    row = client.records.retrieve("contact", key, select=["fullname", "emailaddress1"])
    saw["name"] = row["fullname"]
    client.records.update("contact", key, {"lastname": "Smith"})
    for n in range(7):
        client.records.create("contact", {"lastname": f"number {n}"})
    pages = list(client.records.list_pages("contact", select=["lastname"], orderby=["lastname asc"], page_size=3))
    saw["pages"] = [len(page) for page in pages]
    some = client.records.list("contact", select=["lastname"], filter="contains(lastname,'number') and lastname ne 'Number 3'")
    saw["some"] = len(list(some))
    batch = client.batch.new()
    with batch.changeset() as changes:
        changes.records.create("account", {"name": "one"})
        changes.records.create("account", {"name": "two"})
    result = batch.execute()
    saw["batch"] = not result.has_errors
    client.records.delete("contact", key)
    try:
        gone = client.records.retrieve("contact", key)
        saw["gone"] = gone is None
    except Exception as error:
        saw["gone"] = getattr(error, "status_code", None) == 404
print(json.dumps(saw))
