"""Strict validation by schema: of Kubernetes' own kinds by kubernetes-validate, of the Prometheus operator's by its own CRDs (downloaded, pinned), of
the k6 operator's TestRun by the fields of it that are used here, written down by hand (schemas/test-run.json): its CRD is in no package that can be pinned."""

import functools
import json
import os
import pathlib

import jsonschema
import kubernetes_validate
import yaml

from manifests import ROOT, name

KUBERNETES = "1.36"
CRDS = pathlib.Path(os.environ.get("WALCAST_CRDS", ROOT / "target/services/crds"))
OWN = pathlib.Path(__file__).resolve().parent / "schemas"


def problems(document):
    """What is wrong with an object, as sentences."""
    version = document["apiVersion"]
    if version == "k6.io/v1alpha1":
        return by_schema(document, own_schema("test-run"))
    if version.startswith("monitoring.coreos.com/"):
        return by_schema(document, crd_schema(document["kind"], version.rpartition("/")[2]))
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{name(document)}: {'.'.join(str(part) for part in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{name(document)}: no schema: {error}"]
    return []


def by_schema(document, schema):
    validator = jsonschema.Draft7Validator(schema)
    return [f"{name(document)}: {error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@functools.cache
def own_schema(file):
    return json.loads((OWN / f"{file}.json").read_text())


@functools.cache
def crd_schema(kind, version):
    file = CRDS / f"monitoring.coreos.com_{kind.lower()}s.yaml"
    definition = yaml.safe_load(file.read_text())
    found = [served for served in definition["spec"]["versions"] if served["name"] == version and served["served"]]
    return strict(found[0]["schema"]["openAPIV3Schema"])


def strict(schema):
    """The schema without fields that it does not name, which an API server would drop, and with Kubernetes' own extensions understood."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    # `properties` that is a field of that name, and not the list of fields, has no `type: object` beside it. The metadata of an object
    # is Kubernetes' own, and the CRD does not repeat it.
    if schema.get("type") == "object" and "properties" in schema and not free:
        made["additionalProperties"] = False
    return made
