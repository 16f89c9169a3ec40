"""The members of a node: its own items, those of the collections that it maps over, or all pairs of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lines_pipeline.core.printable import shortened
from lines_pipeline.recipe.drafts import Draft
from lines_pipeline.recipe.items import MAX_ITEMS, Item
from lines_pipeline.recipe.parameters import Feed
from lines_pipeline.recipe.validation import Complaint


def member_rows(draft: Draft, feeds: Mapping[str, Feed]) -> tuple[list[Item], list[Complaint]]:
    """The items of the node: its own, those of what it maps over (the same everywhere), or all pairs of both."""
    mapped, complaints = _mapped_items(feeds)
    if not mapped or not draft.items:
        return mapped or list(draft.items) or [Item.single("", {})], complaints
    if not _is_same_side(draft.items, mapped):
        return _product(mapped, draft.items, complaints)
    own = {item.key: item.names for item in draft.items}
    complaints += [
        Complaint((port,), _difference("for_each", own, port, feed.rows))
        for port, feed in feeds.items()
        if feed.mapped and feed.rows.keys() != own.keys() and not complaints
    ]
    names = {item.key: item.names for item in mapped}
    return [Item.single(key, {**names.get(key, {}), **own[key]}) for key in own], complaints


def _mapped_items(feeds: Mapping[str, Feed]) -> tuple[list[Item], list[Complaint]]:
    """What the node maps over, in the order of the first collection."""
    sides = {port: feed for port, feed in feeds.items() if feed.mapped}
    if not sides:
        return [], []
    first, keys = next((port, feed.rows) for port, feed in sides.items())
    complaints = [
        Complaint((port,), _difference(first, keys, port, feed.rows))
        for port, feed in sides.items()
        if feed.rows.keys() != keys.keys()
    ]
    items = []
    for key in keys:
        names: dict[str, Any] = {}
        for feed in reversed(list(feeds.values())):
            names |= feed.names.get(key, {})
        items.append(Item.single(key, names))
    return items, complaints


def _is_same_side(own: Iterable[Item], mapped: Iterable[Item]) -> bool:
    """Whether a node's own items are those it maps over: by their name, or by their keys where those have none."""
    own_names = {name for item in own for name in item.names}
    mapped_names = {name for item in mapped for name in item.names}
    return bool(own_names & mapped_names) or (
        not mapped_names and {one.key for one in own} == {one.key for one in mapped}
    )


def _product(
    mapped: list[Item], own: tuple[Item, ...], complaints: list[Complaint]
) -> tuple[list[Item], list[Complaint]]:
    if len(mapped) * len(own) > MAX_ITEMS:
        message = f"{len(mapped):,} members times {len(own):,} items are too many, expected at most {MAX_ITEMS:,}"
        return [], [*complaints, Complaint(("for_each",), message)]
    rows = [Item.combined(one, other) for one in mapped for other in own]
    twice = [key for key, count in Counter(row.key for row in rows).items() if count > 1]
    if twice:
        complaints = [*complaints, Complaint(("for_each",), f"found the combination '{shortened(twice[0])}' twice")]
    return rows, complaints


def _difference(first: str, keys: Iterable[str], other: str, others: Iterable[str]) -> str:
    lacks = sorted(set(keys) - set(others))
    extra = sorted(set(others) - set(keys))
    parts = [f"lacks {', '.join(lacks[:5])}"] if lacks else []
    parts += [f"has {', '.join(extra[:5])} besides"] if extra else []
    return f"collections in one node need equal items: compared with '{first}', '{other}' {' and '.join(parts)}"
