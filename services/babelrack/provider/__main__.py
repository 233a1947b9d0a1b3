"""`python -m babelrack.provider`: Terraform starts this."""

from babelrack.provider.framework import serve
from babelrack.provider.onprem import Onprem

serve(Onprem())
