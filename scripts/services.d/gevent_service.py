"""A gevent server, everything patched; each request waits for another greenlet."""
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

import gevent  # noqa: E402
import leak  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402


def app(environ, start_response):
    body = gevent.spawn(leak.answer, environ["PATH_INFO"]).get().encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


WSGIServer(("127.0.0.1", int(os.environ["PORT"])), app, log=None).serve_forever()
