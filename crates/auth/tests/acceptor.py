"""The server's side of a Kerberos login, by the GSSAPI library of this machine (RFC 2744): what our client sends is checked by code that is not ours.

Reads commands from the standard input, one a line, bytes in base64, "-" for none; answers with one line each:
  accept TOKEN BINDINGS   -> done CLIENT TOKEN | continue TOKEN | refused ROUTINE-ERROR
  wrap MESSAGE            -> TOKEN
  unwrap TOKEN            -> MESSAGE
The keytab is that of KRB5_KTNAME.
"""

import base64
import ctypes
import sys

gss = ctypes.CDLL("libgssapi_krb5.so.2")
word, handle = ctypes.c_uint32, ctypes.c_void_p


class Buffer(ctypes.Structure):
    _fields_ = [("length", ctypes.c_size_t), ("value", ctypes.c_void_p)]


class Bindings(ctypes.Structure):
    _fields_ = [
        ("initiator_type", word),
        ("initiator", Buffer),
        ("acceptor_type", word),
        ("acceptor", Buffer),
        ("application_data", Buffer),
    ]


def give(data):
    kept = ctypes.create_string_buffer(data, len(data))
    return Buffer(len(data), ctypes.cast(kept, ctypes.c_void_p)), kept


def take(buffer):
    return ctypes.string_at(buffer.value, buffer.length) if buffer.length else b""


def decode(text):
    return b"" if text == "-" else base64.b64decode(text)


def encode(data):
    return base64.b64encode(data).decode() if data else "-"


context = handle()
minor = word()
for line in sys.stdin:
    command, *arguments = line.split()
    if command == "accept":
        token, kept = give(decode(arguments[0]))
        data, kept_data = give(decode(arguments[1]))
        bindings = ctypes.byref(Bindings(application_data=data)) if data.length else None
        client, answer, name = handle(), Buffer(), Buffer()
        major = gss.gss_accept_sec_context(
            ctypes.byref(minor), ctypes.byref(context), None, ctypes.byref(token), bindings, ctypes.byref(client),
            None, ctypes.byref(answer), None, None, None,
        )  # fmt: skip
        if major & 0xFFFF0000:
            print("refused", major >> 16 & 0xFF, flush=True)
        elif major & 1:
            print("continue", encode(take(answer)), flush=True)
        else:
            gss.gss_display_name(ctypes.byref(minor), client, ctypes.byref(name), None)
            print("done", take(name).decode(), encode(take(answer)), flush=True)
    elif command == "wrap":
        message, kept = give(decode(arguments[0]))
        token = Buffer()
        gss.gss_wrap(ctypes.byref(minor), context, 0, 0, ctypes.byref(message), None, ctypes.byref(token))
        print(encode(take(token)), flush=True)
    elif command == "unwrap":
        token, kept = give(decode(arguments[0]))
        message = Buffer()
        gss.gss_unwrap(ctypes.byref(minor), context, ctypes.byref(token), ctypes.byref(message), None, None)
        print(encode(take(message)), flush=True)
