"""The schemas of Kubernetes are read once a version, not once an object: that is most of these tests' time."""

from functools import cache

import kubernetes_validate.utils as validation

validation.schema_contents = cache(validation.schema_contents)
