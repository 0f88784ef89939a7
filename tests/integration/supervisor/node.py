"""``python -m tests.integration.supervisor.node``: a real supervisor whose workers are stubs.

Its one argument is JSON: ``{"stub": [arguments of the stub worker], "policy": {fields of Policy}}``. All else comes
from the environment, as in the product.
"""

import json
import os
import sys

import django
from msgspec.structs import replace


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "nopenai_site.settings_core"
    django.setup()
    from inference.supervisor.supervisor import Settings
    from nopenai_site.management.commands.supervisor import serve

    wanted = json.loads(sys.argv[1])

    def adapt(settings: Settings) -> Settings:
        command = (sys.executable, "-m", "tests.stub_worker", *wanted["stub"])
        launch = replace(settings.launch, command=command, spare=())
        policy = replace(settings.policy, **wanted["policy"])
        return replace(settings, launch=launch, policy=policy, rival_seconds=1.0)

    serve(adapt)


if __name__ == "__main__":
    main()
