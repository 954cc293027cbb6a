"""``python -m pcpad`` is ``pcpad``."""

from pcpad.cli import main

raise SystemExit(main())
