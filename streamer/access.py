"""Whether a broker lets us in, and to its topics.

aiokafka calls whatever goes wrong on connecting "unable to bootstrap", and a broker leaves a topic that one may not see
out of its list.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
    for_code,
)

from streamer.errors import AccessDenied, BrokerError, TopicMissing

CONNECT_MS = 5_000


async def check(client: Mapping[str, Any]) -> None:
    """Try to get in; `client` is what an aiokafka client takes (`Settings.client_options()`).

    Raises AccessDenied when a broker refuses us, or we its certificate. That nobody answers is left to the client.
    """
    if client.get("security_protocol", "PLAINTEXT") == "PLAINTEXT":
        return
    for server in client["bootstrap_servers"]:
        host, _, port = server.rpartition(":")
        options = {name: value for name, value in client.items() if name != "bootstrap_servers"}
        try:
            connection = await create_conn(host, int(port), request_timeout_ms=CONNECT_MS, **options)
        except ssl.SSLCertVerificationError as error:
            raise AccessDenied(f"{server}: its certificate is not accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise AccessDenied(
                f"{server}: no TLS connection: {(error.reason or 'failed').replace('_', ' ')}"
            ) from error
        except SaslAuthenticationFailed as error:
            raise AccessDenied(
                f"{server}: user {client['sasl_plain_username']}: the user or the password is not accepted"
            ) from error
        except (UnsupportedSaslMechanismError, IllegalSaslStateError) as error:
            raise AccessDenied(f"{server}: takes no authentication by {client['sasl_mechanism']} there") from error
        except (OSError, KafkaError, TimeoutError, ValueError):
            continue
        connection.close()
        return


async def missing(admin: AIOKafkaAdminClient, topic: str, client: Mapping[str, Any]) -> BrokerError:
    """The error for a topic that the broker does not list: AccessDenied or TopicMissing."""
    where = ",".join(client["bootstrap_servers"])
    try:
        async with asyncio.timeout(CONNECT_MS / 1000):
            answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        codes = [resource["error_code"] for answer in answers for resource in answer.to_object()["resources"]]
    except (KafkaError, TimeoutError):
        codes = []
    if any(for_code(code) is TopicAuthorizationFailedError for code in codes):
        who = client.get("sasl_plain_username")
        return AccessDenied(f"{topic}: {f'user {who}' if who else 'whom we are'} may not use this topic on {where}")
    return TopicMissing(f"{topic}: no such topic on {where}; `streamer topics create` makes it")
