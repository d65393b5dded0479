#!/usr/bin/env python3
"""Makes the files of this example anew: the quickstart's images, one of them signed as cosign 2 does.

The key is made for the purpose and thrown away, so each run gives another signature. Needs openssl.
"""

import base64
import hashlib
import json
import pathlib
import shutil
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
OCI = HERE / "oci"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def blob(content: bytes) -> dict:
    digest = hashlib.sha256(content).hexdigest()
    (OCI / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def compact(document: dict) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def sign(payload: bytes) -> str:
    with tempfile.TemporaryDirectory() as directory:
        key = pathlib.Path(directory) / "key.pem"
        openssl = lambda *arguments, **more: subprocess.run(["openssl", *arguments], check=True, **more)
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        openssl("ec", "-in", key, "-pubout", "-out", HERE / "cosign.pub", stderr=subprocess.DEVNULL)
        signed = openssl("dgst", "-sha256", "-sign", key, input=payload, stdout=subprocess.PIPE)
        return base64.b64encode(signed.stdout).decode()


def main() -> None:
    shutil.rmtree(OCI, ignore_errors=True)
    shutil.copytree(HERE / "../quickstart/oci", OCI)
    index = json.loads((OCI / "index.json").read_text())
    name = "org.opencontainers.image.ref.name"
    hello = next(entry for entry in index["manifests"] if entry["annotations"][name] == "hello:1")
    payload = compact(
        {
            "critical": {
                "identity": {"docker-reference": "signed.local/hello"},
                "image": {"docker-manifest-digest": hello["digest"]},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
    )
    layer = {
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        **blob(payload),
        "annotations": {"dev.cosignproject.cosign/signature": sign(payload)},
    }
    config = blob(compact({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}))
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
        "layers": [layer],
    }
    tag = hello["digest"].replace(":", "-") + ".sig"
    entry = {"mediaType": IMAGE_MANIFEST, **blob(compact(manifest)), "annotations": {name: tag}}
    index["manifests"].append(entry)
    (OCI / "index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
