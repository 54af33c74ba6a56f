"""As much of JSON Schema as `jobset.schema.json` is written in."""

import re
from typing import Any

TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int}
KNOWN = {"$schema", "title", "type", "properties", "required", "additionalProperties"} | {
    *("minProperties", "items", "minItems", "maxItems", "const", "enum", "pattern", "minimum")
}


def errors(value: Any, schema: dict[str, Any], place: str = "manifest") -> list[str]:
    """What a value violates, a sentence each; an unknown word of the schema is a KeyError."""
    if unknown := set(schema) - KNOWN:
        raise KeyError(f"{place}: {unknown}")
    allowed = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    # 1 is no true, and no "1".
    if not any(type(value) is type(one) and value == one for one in allowed):
        return [f"{place} is {value!r}, not one of {allowed}"]
    if "type" in schema and type(value) is not TYPES[schema["type"]]:
        return [f"{place} is {value!r}, no {schema['type']}"]
    found = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [
            f"{place} lacks {name}" for name in schema.get("required", []) if name not in value
        ]
        if schema.get("additionalProperties") is False:
            found += [f"{place} has the unknown {name}" for name in value if name not in known]
        if len(value) < schema.get("minProperties", 0):
            found += [f"{place} has {len(value)} fields"]
        for name in value.keys() & known.keys():
            found += errors(value[name], known[name], f"{place}.{name}")
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found += [f"{place} has {len(value)} items"]
        for number, item in enumerate(value):
            found += errors(item, schema.get("items", {}), f"{place}[{number}]")
    elif isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            found += [f"{place} is {value!r}, not as {schema['pattern']}"]
    elif isinstance(value, int) and value < schema.get("minimum", value):
        found += [f"{place} is {value}, less than {schema['minimum']}"]
    return found
