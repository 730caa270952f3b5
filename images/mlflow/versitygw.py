"""Users of versitygw: created by its admin API, and given their rights by bucket policies.

Root signs the API's requests as those of S3. https://github.com/versity/versitygw/wiki
"""

import os
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from xml.etree.ElementTree import Element, SubElement, tostring

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from urllib3 import BaseHTTPResponse, PoolManager


class RefusedError(Exception):
    """The admin API refuses a request."""


class VersitygwAdmin:
    """The admin API of versitygw at `address`, such as http://minio:9000.

    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are root's.
    """

    def __init__(self, address: str, http_client: PoolManager) -> None:
        self._address = address
        key = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        self._signature: Any = S3SigV4Auth(key, "s3", "us-east-1")
        self._http = http_client

    def set_user(self, name: str, password: str) -> None:
        """Create a user who may do nothing yet, or give an existing one the password.

        Raises:
            RefusedError: the answer is neither.
        """
        created = self._call("create-user", Access=name, Secret=password, Role="user")
        if created.status == HTTPStatus.CONFLICT:
            created = self._call(f"update-user?{urlencode({'access': name})}", Secret=password)
        if created.status >= HTTPStatus.BAD_REQUEST:
            raise RefusedError(f"{created.status} for the user {name}: {created.data.decode()}")

    def _call(self, action: str, **fields: str) -> BaseHTTPResponse:
        account = Element("Account")
        for name, value in fields.items():
            SubElement(account, name).text = value
        request: Any = AWSRequest("PATCH", f"{self._address}/{action}", data=tostring(account))
        self._signature.add_auth(request)
        signed = request.prepare()
        return self._http.request(
            signed.method, signed.url, body=signed.body, headers=dict(signed.headers.items())
        )
