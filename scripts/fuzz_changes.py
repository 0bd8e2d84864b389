"""How a right file becomes a broken or a hostile one: JSON, text such as YAML, and bytes."""

from __future__ import annotations

import json
import random
from typing import Any

Draw = random.Random

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "..", "../../x", "/tmp/x", "C:\\x", "nul", "a\0b", "\x1b[31m", "x" * 5000, "\u2028"),
    *(0, -1, 1, 2, 2**31, 2**32, 2**60, 2**63, 2**64, 10**400, -(2**63) - 1, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), [], {}, [[]], [None], {"": ""}, [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], ["x"] * 2000),
    *({"size": [4, 8], "counts": "~~~~"}, {"size": [4, 8], "counts": [32]}, {"size": [1, 1], "counts": "0"}, "P" * 40),
    *("cpu", "qnn,context=../x", "vitisai,config_file=/etc/passwd", "float32", "bfloat16", "object", "V10", "image"),
)


def change_json(right: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.15:
        return change_bytes(right, draw)
    lines = right.count(b"\n") == 1 and right.endswith(b"\n")
    tree = json.loads(right)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        tree = _grown(tree, draw)
    return json.dumps(tree).encode() + b"\n" * lines


def _copied(tree: Any) -> Any:
    """Return a copy of what may be nested deeper than `copy.deepcopy` goes."""
    return json.loads(json.dumps(tree))


def _grown(tree: Any, draw: Draw) -> Any:
    holders = _hold(tree, [])
    if not holders:
        return _copied(draw.choice(HOSTILE))
    holder, key = draw.choice(holders)
    kind = draw.random()
    if kind < 0.55:
        holder[key] = _copied(draw.choice(HOSTILE))
    elif kind < 0.65:
        del holder[key]
    elif kind < 0.8:
        other, at = draw.choice(holders)
        holder[key] = _copied(other[at])
    elif kind < 0.87 and isinstance(holder, dict):
        holder[str(draw.choice(HOSTILE))[:300]] = holder.pop(key)
    elif kind < 0.93 and isinstance(holder, list):
        holder.extend(_copied([holder[key]]) * draw.choice((1, 3, 500)))
    else:
        inner = holder[key]
        for _ in range(draw.choice((1, 5, 190, 250))):
            inner = [inner] if draw.random() < 0.5 else {"a": inner}
        holder[key] = inner
    return tree


def _hold(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Put every place of a tree into `found`, as what holds it and the key there."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        found.append((tree, key))
        if isinstance(tree[key], dict | list):
            _hold(tree[key], found)
    return found


def change_bytes(right: bytes, draw: Draw) -> bytes:
    content = bytearray(right)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at, kind = draw.randrange(len(content) + 1), draw.random()
        if kind < 0.5 and at < len(content):
            content[at] = draw.choice((draw.randrange(256), content[at] ^ 1 << draw.randrange(8), 0, 255))
        elif kind < 0.7:
            content[at:at] = draw.randbytes(draw.choice((1, 4, 60)))
        elif kind < 0.85:
            del content[at : at + draw.choice((1, 4, 60))]
        elif kind < 0.95:
            other = draw.randrange(len(content) + 1)
            content[at:at] = content[other : other + draw.choice((1, 8, 80))]
        else:
            del content[at:]
    return bytes(content)


TOKENS = (
    *("null", "true", "[]", "{}", "-1", "0", "1e400", "2" * 39, ".nan", "0x10", "1_000", "&a x", "*a", "!!python/x y"),
    *("<<: {}", "? ", "- " * 40, "[" * 60, "{a: " * 60, "'", '"\\ud800"', "\t", "\x00", "\N{SNOWMAN}", "...", "---"),
    *("extends: x", "extends: ../x.yaml", "extends: self.yaml", "[9223372036854775808, 1]", "random:99999999999999999"),
    *("../x", "/etc/passwd", "boxes", "npu", "simplify", "quantize", "a" * 3000, "|", ">", "%YAML 9.9", "\r", "\x85"),
)


def change_text(right: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.2:
        return change_bytes(right, draw)
    lines = right.decode("utf-8").split("\n")
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, kind = draw.randrange(len(lines)), draw.random()
        if kind < 0.5:
            begin, colon, _ = lines[at].partition(":")
            lines[at] = f"{begin}{colon} {draw.choice(TOKENS)}"
        elif kind < 0.65:
            lines.insert(at, " " * draw.choice((0, 2, 4)) + draw.choice(TOKENS))
        elif kind < 0.8:
            lines[at] = draw.choice(lines)
        elif kind < 0.9:
            lines[at] = " " * draw.choice((0, 2, 4, 60)) + lines[at].strip()
        else:
            del lines[at : at + draw.choice((1, 3))]
            lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
