#!/usr/bin/env python3
"""ntlm-acceptor.py ntlm|negotiate DOMAIN USER PASSWORD [END_POINT]: the server's side of one login after the other, by pyspnego.

One message a line, in base64, on standard input; the answer to each on standard output:
  + MESSAGE       go on; the message for the client
  ok USER MESSAGE the login worked; a last message, or "-"
  no REASON       refused; the next line begins a new login
END_POINT is the channel binding tls-server-end-point in hexadecimal digits, which the client must have, too. A checksum over the messages
and a signature under the list of mechanisms are checked wherever the client sends them, and "ok" is said only where it did."""

import base64
import os
import sys
import tempfile

import spnego
import spnego.channel_bindings
import spnego.exceptions


def main():
    protocol, domain, user, password = sys.argv[1:5]
    bindings = None
    if len(sys.argv) > 5:
        data = b"tls-server-end-point:" + bytes.fromhex(sys.argv[5])
        bindings = spnego.channel_bindings.GssChannelBindings(application_data=data)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as users:
        users.write(f"{domain}:{user}:{password}\n")
        users.flush()
        os.environ["NTLM_USER_FILE"] = users.name
        context = None
        for line in sys.stdin:
            if context is None:
                # the implementation in Python, not the GSSAPI library of the system
                options = spnego.NegotiateOptions.use_negotiate if protocol == "negotiate" else spnego.NegotiateOptions.use_ntlm
                context = spnego.server(protocol=protocol, channel_bindings=bindings, options=options)
            try:
                token = context.step(base64.b64decode(line))
            except (spnego.exceptions.SpnegoError, ValueError) as error:
                say(f"no {type(error).__name__}: {' '.join(str(error).split())}")
                context = None
                continue
            if not context.complete:
                say("+ " + base64.b64encode(token).decode())
                continue
            say(f"ok {context.client_principal} {base64.b64encode(token).decode() if token else '-'}")
            context = None


def say(line):
    print(line, flush=True)


main()
