"""The secrets themselves: a tagged union of msgspec structs, and how one is decoded.

Lenient about decoration: an unknown type becomes :class:`UnknownSecret`, an unknown field of a value is kept
in its ``extra``, and a name, owner or scope of another type than documented never costs a credential. Strict
about ids and about what is presented to an app: a known type without its credential does not decode.

The ``repr`` of a secret does not show its value, and pickling raises ``TypeError``. There are two explicit
ways to get the value out: ``msgspec.structs.asdict(secret.value)`` and ``msgspec.json.encode(secret)``.
"""

from flowmate_async.values.secrets.decode import decode_answer as decode_answer
from flowmate_async.values.secrets.decode import decode_secret as decode_secret
from flowmate_async.values.secrets.decode import missing_credential as missing_credential
from flowmate_async.values.secrets.refresh_fields import drop_refresh_fields as drop_refresh_fields
from flowmate_async.values.secrets.refresh_fields import note_renewable as note_renewable
from flowmate_async.values.secrets.refresh_fields import presented as presented
from flowmate_async.values.secrets.static import ApiKeySecret as ApiKeySecret
from flowmate_async.values.secrets.static import ApiKeyValue as ApiKeyValue
from flowmate_async.values.secrets.static import MixedSecret as MixedSecret
from flowmate_async.values.secrets.static import MixedValue as MixedValue
from flowmate_async.values.secrets.static import SimpleSecret as SimpleSecret
from flowmate_async.values.secrets.static import SimpleValue as SimpleValue
from flowmate_async.values.secrets.tokens import OAuth1Secret as OAuth1Secret
from flowmate_async.values.secrets.tokens import OAuth1TwoLeggedSecret as OAuth1TwoLeggedSecret
from flowmate_async.values.secrets.tokens import OAuth1Value as OAuth1Value
from flowmate_async.values.secrets.tokens import OAuth2Secret as OAuth2Secret
from flowmate_async.values.secrets.tokens import OAuth2Value as OAuth2Value
from flowmate_async.values.secrets.tokens import SessionSecret as SessionSecret
from flowmate_async.values.secrets.tokens import SessionValue as SessionValue
from flowmate_async.values.secrets.union import KNOWN_TYPES as KNOWN_TYPES
from flowmate_async.values.secrets.union import SECRET_TYPES as SECRET_TYPES
from flowmate_async.values.secrets.union import Secret as Secret
from flowmate_async.values.secrets.union import UnknownSecret as UnknownSecret
