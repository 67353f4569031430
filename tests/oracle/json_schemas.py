"""Validates documents by the schemas in a folder: json_schemas.py SCHEMAS DOCUMENTS.

DOCUMENTS is a list of [label, schema, document, is_ours]. Prints a line for each problem.

What cowhide prints may have no name that the schema doesn't list, even where QEMU may add names. And the schema must
be tight: it must refuse the document with an unknown name in any of its objects, or with a value of another type.
"""
import copy, json, pathlib, sys
from jsonschema import Draft202012Validator as Validator, RefResolver

OPEN = ("additionalProperties", "unevaluatedProperties")


def closed(schema):
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: False if name in OPEN and value is True else closed(value) for name, value in schema.items()}


folder = pathlib.Path(sys.argv[1]).resolve()
schemas = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def validators(change):
    store = {(folder / f"{name}.json").as_uri(): change(schema) for name, schema in schemas.items()}
    return {
        pathlib.Path(uri).stem: Validator(schema, resolver=RefResolver(uri, schema, store=store))
        for uri, schema in store.items()
    }


as_written, tight = validators(lambda schema: schema), validators(closed)
for name, schema in schemas.items():
    try:
        Validator.check_schema(schema)
    except Exception as error:
        print(f"{name}.json is no schema: {error}")


def wrong_ones(document, root):
    """Yields changes of a document in which one object of it is wrong; of a list the first item is changed."""
    if isinstance(document, list):
        yield from wrong_ones(document[0], root) if document else ()
    elif isinstance(document, dict):
        document["no-such-name"] = 1
        yield "an unknown name", root
        del document["no-such-name"]
        for key, value in document.items():
            document[key] = [[None]]
            yield f"a wrong type for {key}", root
            document[key] = value
            yield from wrong_ones(value, root)


for label, name, document, is_ours in json.loads(pathlib.Path(sys.argv[2]).read_text()):
    validator = tight[name] if is_ours else as_written[name]
    error = next(validator.iter_errors(document), None)
    if error:
        place = "/".join(str(part) for part in error.absolute_path)
        print(f"{label}: {name}.json: at '{place}': {error.message[:300]}")
    elif is_ours:
        document = copy.deepcopy(document)
        for change, wrong in wrong_ones(document, document):
            if validator.is_valid(wrong):
                print(f"{label}: {name}.json takes {change}")

for name, validator in as_written.items():
    if validator.is_valid({}) or validator.is_valid([{}]):
        print(f"{name}.json takes an object without names")
