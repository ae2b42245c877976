"""odata-filters.py: parses each line of its input with odata-query, a parser of OData that is not ours; prints what cannot be parsed and why."""
import sys

from odata_query.grammar import ODataLexer, ODataParser

for line in sys.stdin:
    line = line.rstrip("\n")
    try:
        ODataParser().parse(ODataLexer().tokenize(line))
    except Exception as error:  # whatever it does not take
        print(f"{line}: {type(error).__name__}: {error}")
