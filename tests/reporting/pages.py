"""Reading a report's page as a browser would: elements, numbers, text."""

from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """The elements of a page, its ``<data>`` by id and its tables by id.

    Attributes:
        tags: how many of each element there are.
        attributes: every attribute's name and value.
        numbers: the value of each ``<data id=…>``.
        tables: the rows of each ``<table id=…>``, a cell its text.
        buckets: the values of every ``<data class="bucket">``.
        means: the mean of each chart over time, as printed above it.
        text: everything that is printed.
    """

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.numbers, self.tables = Counter(), [], {}, {}
        self.buckets, self.means, self.text, self.source = [], [], "", source
        self._table = self._cell = None
        self._open = []
        self.feed(source)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        given = dict(attrs)
        if tag == "data" and "id" in given:
            self.numbers[given["id"]] = float(given["value"])
        if given.get("class") == "bucket":
            self.buckets.append(int(given["value"]))
        if given.get("class") == "mean":
            self.means.append(float(given["value"]))
        if tag == "table":
            self._table = self.tables.setdefault(given.get("id", ""), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
            self._cell = tag
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else"
        if tag in ("td", "th"):
            self._cell = None
        if tag == "table":
            self._table = None

    def handle_data(self, text):
        if self._open and self._open[-1] == "style":
            return
        self.text += text
        if self._cell is not None:
            self._table[-1][-1] += text

    def rows(self, table):
        """The rows of a table below its head, as stripped texts."""
        return [[cell.strip() for cell in row] for row in self.tables[table][1:]]
