"""A WSGI application."""
import leak


def app(environ, start_response):
    body = leak.answer(environ["PATH_INFO"]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
