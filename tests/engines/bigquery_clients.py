"""Beam's and Google's clients of BigQuery, sent to an emulator; as a program it is `headrace` with them.

python -m tests.engines.bigquery_clients REST_PORT GRPC_PORT run job.yaml …
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from beam_jobs.cli import entry

PROJECT = "my-project"


def redirect(rest_port: int, grpc_port: int, patch: Callable[[Any, str, Any], None] = setattr) -> Any:
    """Sends all clients that Beam makes in this process to an emulator; gives one of Google's."""
    import grpc
    from apache_beam.internal.gcp import auth
    from apache_beam.io.gcp import bigquery as connector
    from apache_beam.io.gcp import bigquery_tools
    from apache_beam.io.gcp.internal.clients import bigquery as rest
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

    url = f"http://127.0.0.1:{rest_port}"

    class Rest(rest.BigqueryV2):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            given = {"url": f"{url}/bigquery/v2/", "get_credentials": False, "credentials": None}
            super().__init__(*args, **{**options, **given})

    def storage() -> Any:
        unlimited = [("grpc.max_receive_message_length", -1)]  # as Google's own channels are
        channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}", unlimited)
        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))

    client = bigquery.Client(
        PROJECT, credentials=AnonymousCredentials(), client_options={"api_endpoint": url}
    )
    patch(auth, "get_service_credentials", lambda _options: None)
    patch(bigquery_tools.bigquery, "BigqueryV2", Rest)
    patch(bigquery_tools.gcp_bigquery, "Client", lambda **_: client)
    patch(connector.bq_storage, "BigQueryReadClient", storage)
    return client


if __name__ == "__main__":
    redirect(int(sys.argv.pop(1)), int(sys.argv.pop(1)))
    entry()
