"""The child processes of a crawl import little, because each process that starts some pays for it."""

import subprocess
import sys

from vecap_tasks.crawl.html.extract import EXTRACT
from vecap_tasks.crawl.image import decode_pool
from vecap_tasks.crawl.sources.sitemap import PARSE_SITEMAP
from vecap_tasks.crawl.sources.wat_record import READ_RECORD


def test_children_do_not_import_pydantic_pyarrow_or_aiohttp():
    modules = {name.partition(":")[0] for name in (EXTRACT, decode_pool._DECODE, PARSE_SITEMAP, READ_RECORD)}
    code = f"import sys, {', '.join(modules)}; print(*{{'pydantic', 'pyarrow', 'aiohttp'}} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
