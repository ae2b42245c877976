#!/usr/bin/env python3
"""ews-schema.py FOLDER FILE...: check requests against the published schema of EWS.

FOLDER has messages.xsd and types.xsd, which every Exchange serves beside its EWS (https://server/EWS/messages.xsd). They are Microsoft's and no part of
this project. Each FILE is a SOAP envelope; what stands in its body and header is checked. Needs lxml, which exchangelib brings."""
import os
import re
import sys
import tempfile

from lxml import etree

XML = "http://www.w3.org/XML/1998/namespace"
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
MESSAGES = "http://schemas.microsoft.com/exchange/services/2006/messages"
TYPES = "http://schemas.microsoft.com/exchange/services/2006/types"


def schema(folder):
    """One schema of the two files, with the attribute xml:lang that they use and do not bring."""
    with tempfile.TemporaryDirectory() as work:
        for name in ("messages.xsd", "types.xsd"):
            text = open(os.path.join(folder, name), encoding="utf-8-sig").read()
            text = text.replace(f'<xs:import namespace="{XML}"/>', f'<xs:import namespace="{XML}" schemaLocation="xml.xsd"/>')
            # libxml2 takes the content of this type, which is about time zones, for ambiguous
            text = re.sub(
                r'(<xs:complexType name="ArrayOfTransitionsType">).*?(</xs:complexType>)',
                r'\1<xs:sequence><xs:any minOccurs="0" maxOccurs="unbounded" processContents="skip"/></xs:sequence>\2',
                text,
                flags=re.S,
            )
            open(os.path.join(work, name), "w", encoding="utf-8").write(text)
        with open(os.path.join(work, "xml.xsd"), "w", encoding="utf-8") as out:
            out.write(
                f'<xs:schema targetNamespace="{XML}" xmlns:xs="http://www.w3.org/2001/XMLSchema">'
                '<xs:attribute name="lang" type="xs:language"/></xs:schema>'
            )
        return etree.XMLSchema(etree.parse(os.path.join(work, "messages.xsd")))


def main():
    checker = schema(sys.argv[1])
    wrong = 0
    for file in sys.argv[2:]:
        envelope = etree.parse(file).getroot()
        parts = list(envelope.find(SOAP + "Body")) + list(envelope.find(SOAP + "Header"))
        for part in parts:
            if not checker.validate(etree.ElementTree(part)):
                wrong += 1
                for fault in checker.error_log:
                    print(f"{os.path.basename(file)}: {fault.message}")
    print(f"{len(sys.argv) - 2} requests, {wrong} parts wrong")
    return 1 if wrong or len(sys.argv) < 3 else 0


sys.exit(main())
