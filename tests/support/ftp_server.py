"""A small FTP server on loopback, for one folder, user and password; the standard library only."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self


class FtpServer:
    """Serves ``folder`` to ``user`` while it is entered. Passive mode only, as clients of today have it."""

    def __init__(self, folder: Path, user: str, password: str):
        self.folder, self.user, self.password = folder, user, password
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session, bind_and_activate=True)
        self._server.daemon_threads = True
        self._server.ftp = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.ftp: FtpServer = self.server.ftp  # type: ignore[attr-defined]
        self.known, self.renamed, self.start = False, Path(), 0
        self.passive: socket.socket | None = None
        self.say("220 ready")
        while line := self.rfile.readline():
            command, _, argument = line.decode().strip().partition(" ")
            if command.upper() == "QUIT":
                return self.say("221 bye")
            answer: Callable[[str], str | None] | None = getattr(self, f"do_{command.lower()}", None)
            if answer is None or not (self.known or command.upper() in ("USER", "PASS")):
                self.say("502 no such command" if answer is None else "530 who are you?")
                continue
            try:
                text = answer(argument)
            except OSError as error:
                text = f"550 {error.strerror}"
            if text:
                self.say(text)
        return None

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def path(self, argument: str) -> Path:
        return self.ftp.folder / argument.strip("/")

    def listen(self) -> None:
        if self.passive is not None:
            self.passive.close()
        self.passive = socket.create_server(("127.0.0.1", 0))

    def port_of_data(self) -> int:
        assert self.passive is not None
        return int(self.passive.getsockname()[1])

    def finish(self) -> None:
        if self.passive is not None:
            self.passive.close()
        super().finish()

    def data(self) -> socket.socket:
        assert self.passive is not None
        with self.passive:
            return self.passive.accept()[0]

    def do_user(self, name: str) -> str:
        self.name = name
        return "331 password?"

    def do_pass(self, password: str) -> str:
        self.known = (self.name, password) == (self.ftp.user, self.ftp.password)
        return "230 welcome" if self.known else "530 wrong"

    def do_type(self, _: str) -> str:
        return "200 yes"

    def do_pwd(self, _: str) -> str:
        return '257 "/"'

    def do_cwd(self, argument: str) -> str:
        return "250 there" if self.path(argument).is_dir() else "550 no such folder"

    def do_epsv(self, _: str) -> str:
        self.listen()
        return f"229 here (|||{self.port_of_data()}|)"

    def do_pasv(self, _: str) -> str:
        self.listen()
        port = self.port_of_data()
        return f"227 here (127,0,0,1,{port >> 8},{port & 255})"

    def do_mlsd(self, argument: str) -> str:
        entries = sorted(self.path(argument).iterdir())
        self.say("150 listing")
        with self.data() as connection:
            for entry in entries:
                at = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
                kind = "dir" if entry.is_dir() else "file"
                facts = f"type={kind};size={entry.stat().st_size};modify={at:%Y%m%d%H%M%S};"
                connection.sendall(f"{facts} {entry.name}\r\n".encode())
        return "226 done"

    def do_size(self, argument: str) -> str:
        return f"213 {self.path(argument).stat().st_size}" if self.path(argument).is_file() else "550 no such file"

    def do_rest(self, argument: str) -> str:
        self.start = int(argument)
        return "350 from there"

    def do_retr(self, argument: str) -> str:
        content, self.start = self.path(argument).read_bytes()[self.start :], 0
        self.say("150 sending")
        with self.data() as connection:
            connection.sendall(content)
        return "226 done"

    def do_stor(self, argument: str) -> str:
        start, self.start = self.start, 0
        with self.path(argument).open("r+b" if start else "wb") as file:
            file.seek(start)
            self.say("150 receiving")
            with self.data() as connection:
                while part := connection.recv(65536):
                    file.write(part)
        return "226 done"

    def do_mkd(self, argument: str) -> str:
        self.path(argument).mkdir()
        return f'257 "{argument}"'

    def do_rmd(self, argument: str) -> str:
        self.path(argument).rmdir()
        return "250 gone"

    def do_dele(self, argument: str) -> str:
        self.path(argument).unlink()
        return "250 gone"

    def do_rnfr(self, argument: str) -> str:
        self.renamed = self.path(argument)
        return "350 to what?"

    def do_rnto(self, argument: str) -> str:
        self.renamed.replace(self.path(argument))
        return "250 renamed"
