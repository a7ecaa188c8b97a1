"""A throw-away certificate authority, made with openssl."""

import subprocess
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """`ca` is its certificate; `issue` signs others, all of them PEM files in `folder`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.ca = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._run("req", "-x509", *_NEW_KEY, "-keyout", str(self._key), "-out", str(self.ca), "-days", "2",
                  "-subj", f"/CN=test {name}")  # fmt: skip

    def issue(self, name: str, subject: str = "IP:127.0.0.1", days: int = 2) -> Path:
        """`name`.pem, its key `name`.key, and both in `name`.both as Kafka wants them; expired with negative `days`."""
        path = self.folder / f"{name}.pem"
        request, extensions = path.with_suffix(".csr"), path.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={subject}\n")
        self._run("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", str(request), "-subj", f"/CN={name}")
        signed = ["-CA", str(self.ca), "-CAkey", str(self._key), "-days", str(days), "-extfile", str(extensions)]
        self._run("x509", "-req", "-in", str(request), "-out", str(path), *signed)
        path.with_suffix(".both").write_text(path.with_suffix(".key").read_text() + path.read_text())
        return path

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
