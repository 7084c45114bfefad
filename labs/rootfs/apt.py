"""A package of the distribution, downloaded and unpacked, never installed. Needs no root."""

import shutil
import subprocess
from pathlib import Path

from labs.errors import CANNOT, Refused
from labs.rootfs import programs
from labs.rootfs.interrupts import Interrupts
from labs.texts import say

SECONDS = 600.0
# A private update must neither run the machine's hooks (docker-clean's empties the machine's own
# archive folder) nor keep or fetch what we don't read. See apt.conf(5).
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Install::Pre-Invoke;
#clear APT::Install::Post-Invoke-Success;
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
APT::Sandbox::User "root";
Dir::Cache "{work}/cache";
Dir::Cache::archives "archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
# The lists come from the same, signed places as the machine's; only where they lie differs.
OWN_LISTS = 'Dir::State::lists "{work}/lists";\n'


def have() -> bool:
    """Tell whether this is a distribution with apt."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def unpack(package: str, root: Path, work: Path, interrupts: Interrupts) -> None:
    """Download `package` and unpack it into `root`; apt verifies it against its signed lists.

    With the machine's package lists, or where those are missing or stale with some of our own in
    `work`. Raises Refused with apt's own words.
    """
    for folder in ("cache/archives/partial", "lists/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    configuration = work / "apt.conf"
    configuration.write_text(CONFIGURATION.format(work=work))
    apt = ["apt-get", "-q", "-c", str(configuration)]
    try:
        said = _download(apt, package, work, interrupts)
        if said:
            with configuration.open("a") as file:
                file.write(OWN_LISTS.format(work=work))
            update = programs.run([*apt, "update"], interrupts, seconds=SECONDS)
            said = _download(apt, package, work, interrupts)
            if said:
                causes = [programs.last_line(text) for text in (update.stderr, said)]
                raise Refused(
                    f"apt-get download {package}",
                    " / ".join(filter(None, causes)),
                    say("rootfs.no_package.remedy", package=package),
                    status=CANNOT,
                )
        archive = next(work.glob(f"{package}_*.deb"))
        unpacked = programs.run(
            ["dpkg-deb", "-x", str(archive), str(root)], interrupts, seconds=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Refused(
            f"apt-get download {package}",
            say("rootfs.apt_slow", seconds=int(SECONDS)),
            say("rootfs.no_package.remedy", package=package),
            status=CANNOT,
        ) from None
    if unpacked.returncode != 0:
        raise Refused(f"dpkg-deb -x {archive.name}", programs.last_line(unpacked.stderr))


def _download(apt: list[str], package: str, work: Path, interrupts: Interrupts) -> str:
    """Return what apt complained of, nothing if it went well."""
    download = [*apt, "download", package]
    done = programs.run(download, interrupts, seconds=SECONDS, cwd=work)
    return "" if done.returncode == 0 else done.stderr or f"status {done.returncode}"
