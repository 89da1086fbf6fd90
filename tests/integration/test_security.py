"""Apache Kafka behind TLS and SCRAM: who gets in works, and who does not is told why in one line."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.settings import Settings
from streamer.topics import ensure, wanted
from tests.brokers import SecuredKafka
from tests.conftest import kafka_or_skip

pytestmark = pytest.mark.kafka

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A running broker that wants credentials."""
    with kafka_or_skip(SecuredKafka, tmp_path_factory.mktemp("secured")) as broker:
        yield broker


def environment(broker: SecuredKafka, **changes: str) -> dict[str, str]:
    """Of a process that may do everything, with changes."""
    user, password = broker.USER
    own = {
        "kafka_bootstrap": broker.bootstrap,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": broker.mechanism,
        "sasl_username": user,
        "sasl_password": password,
        "ssl_ca_file": str(broker.authority),
        "broker_retry_s": "60",  # a refusal is not retried
        "web_port": "0",
    } | changes
    others = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    return others | {f"STREAMER_{name.upper()}": value for name, value in own.items()}


def refused(broker: SecuredKafka, *arguments: str, **changes: str) -> str:
    """The one line of a command that fails."""
    done = subprocess.run(
        [sys.executable, "-m", "streamer", *arguments],
        env=environment(broker, **changes),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "secret" not in line
    return line.removeprefix("streamer: ")


def test_who_gets_in(secured: SecuredKafka) -> None:
    """Topics are made, listings published and read again; nothing but the settings is needed."""
    everything = {"env": environment(secured), "capture_output": True, "text": True, "timeout": TIMEOUT_S}
    streamer = [sys.executable, "-m", "streamer"]
    subprocess.run([*streamer, "topics", "create", "--partitions", "1"], check=True, **everything)  # type: ignore[call-overload]
    subprocess.run([*streamer, "publish"], check=True, **everything)  # type: ignore[call-overload]
    done = subprocess.run([*streamer, "verify", "--all"], check=False, **everything)  # type: ignore[call-overload]
    assert "acknowledged, and neither a tag event nor a dead letter" in done.stdout


def test_wrong_password(secured: SecuredKafka) -> None:
    """Named: the broker and the user."""
    line = refused(secured, "dlq", "list", sasl_password="wrong")  # noqa: S106
    assert line == f"{secured.bootstrap}: user alice: the user or the password is not accepted"


def test_expired_certificate(secured: SecuredKafka) -> None:
    """Named: the broker and what is wrong with it."""
    line = refused(secured, "publish", kafka_bootstrap=secured.expired)
    assert line == f"{secured.expired}: its certificate is not accepted: certificate has expired"


def test_unknown_authority(secured: SecuredKafka) -> None:
    """A broker whose certificate nobody vouches for is not spoken to."""
    environment_of_system = {"ssl_ca_file": str(Path(secured.authority).with_name("secure.pem"))}
    line = refused(secured, "verify", **environment_of_system)
    assert line.startswith(f"{secured.bootstrap}: its certificate is not accepted: ")


def test_no_such_mechanism(secured: SecuredKafka) -> None:
    """Named: the mechanism."""
    line = refused(secured, "tail", sasl_mechanism="PLAIN")
    assert line == f"{secured.bootstrap}: takes no authentication by PLAIN there"


def test_unauthorised_topic(secured: SecuredKafka) -> None:
    """A topic that the user may not see is not called missing."""
    user, password = secured.GUEST
    line = refused(secured, "publish", sasl_username=user, sasl_password=password)
    assert line == f"product-created: user guest may not use this topic on {secured.bootstrap}"


async def test_the_worker_does_not_retry(secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its checks at the start raise at once, though an absent broker is waited for."""
    from streamer.errors import AccessDenied  # noqa: PLC0415
    from streamer.preflight import preflight  # noqa: PLC0415

    user, password = secured.USER
    known = {
        "kafka_bootstrap": secured.bootstrap,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": secured.mechanism,
        "sasl_username": user,
        "ssl_ca_file": secured.authority,
    }
    settings = Settings(**known, sasl_password=password)  # type: ignore[arg-type]
    await ensure(wanted(settings, 1), **settings.client_options())
    assert await preflight(settings) > 0
    with pytest.raises(AccessDenied):
        await preflight(Settings(**known, sasl_password="wrong", broker_retry_s=60))  # type: ignore[arg-type]  # noqa: S106
