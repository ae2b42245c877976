"""oauth-clients.py AUTHORITY TENANT CLIENT SECRET CERTIFICATE KEY CA: get access tokens as MSAL for Python and azure-identity do.

AUTHORITY is https://host:port of a token service, CERTIFICATE and KEY are PEM files, CA the authority of its TLS certificate. One line for each
way: its name, a tab, and the token or the AADSTS error. A wrong secret is tried too; it has to be refused.
"""
import os
import re
import sys

# requests lets these beat the authority that it is told to trust
for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
    os.environ.pop(name, None)

import msal
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential, ClientSecretCredential

authority, tenant, client, secret, certificate_file, key_file, ca = sys.argv[1:]
scope = "https://outlook.office365.com/.default"
with open(certificate_file, encoding="ascii") as file:
    certificate = file.read()
with open(key_file, encoding="ascii") as file:
    key = file.read()


def aadsts(text):
    found = re.search(r"AADSTS\d+", str(text))
    return found.group() if found else "no AADSTS number in: " + str(text)


def by_msal(name, credential):
    application = msal.ConfidentialClientApplication(
        client,
        authority=f"{authority}/{tenant}",
        client_credential=credential,
        instance_discovery=False,
        verify=ca,
    )
    answer = application.acquire_token_for_client([scope])
    print(name, answer.get("access_token") or aadsts(answer), sep="\t")


def by_azure(name, kind, *proof, **more):
    credential = kind(
        tenant, client, *proof, authority=authority, disable_instance_discovery=True, connection_verify=ca, **more
    )
    try:
        print(name, credential.get_token(scope).token, sep="\t")
    except ClientAuthenticationError as error:
        print(name, aadsts(error), sep="\t")


by_msal("msal secret", secret)
by_msal("msal certificate", {"private_key": key, "public_certificate": certificate})
by_msal("msal wrong", "wrong")
by_azure("azure secret", ClientSecretCredential, secret)
by_azure("azure certificate", CertificateCredential, certificate_data=(key + certificate).encode())
by_azure("azure wrong", ClientSecretCredential, "wrong")
