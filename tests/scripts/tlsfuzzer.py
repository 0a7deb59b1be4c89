#!/usr/bin/env python3
"""Has the scripts of tlsfuzzer converse with sluice and with nginx, side by side, and prints what came of it.

  tlsfuzzer.py FOLDER [--sluice PATH] [--nginx PATH] [--only WORD]... [--most N] [--jobs N] [--log FILE]

FOLDER is a checkout of https://github.com/tlsfuzzer/tlsfuzzer; the interpreter has the version of tlslite-ng that its
requirements.txt asks for. Both servers offer the same versions, suites and groups, so where one of them passes a
conversation and the other does not, somebody has to look. This is run by hand: what the scripts want of a server
(RSA key exchange, CBC, renegotiation) is often what no server should offer any more, and needs judging.

A script is run with the first of several choices of cipher suites with which nginx passes its conversation `sanity`,
and is left out if there is none. Conversations are drawn alike for both.
"""

import argparse
import concurrent.futures
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = 240
SUITE = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
ECDSA_SUITE = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"

# What nginx is told, so that it offers what sluice does by itself.
SUITES = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
GROUPS = "X25519:prime256v1:secp384r1"

# Scripts that measure time, and those about CBC.
LEFT_OUT = ("bleichenbacher", "lucky13", "minerva", "fuzzed-plaintext", "fuzzed-padding", "fuzzed-MAC", "encrypt-then-mac")

# How a script is run: conversations are drawn alike in every run; and where a script asks for a suite of CBC by its
# name it gets the one of GCM with the same key exchange, which is what the servers offer.
RUN = """
import random, runpy, sys
from tlslite.constants import CipherSuite
random.seed(7)
for key in "RSA", "ECDSA":
    for cbc, gcm in ("128_CBC_SHA", "128_GCM_SHA256"), ("128_CBC_SHA256", "128_GCM_SHA256"), ("256_CBC_SHA", "256_GCM_SHA384"), ("256_CBC_SHA384", "256_GCM_SHA384"):
        of = f"TLS_ECDHE_{key}_WITH_AES_"
        setattr(CipherSuite, of + cbc, getattr(CipherSuite, of + gcm))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Listeners: the certificate's key, and whether clients' certificates are asked for.
KINDS = [(key, asks) for key in ("rsa", "ecdsa") for asks in (False, True)]


def openssl(folder, *words):
    command = ["openssl", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def certificates(folder):
    """For each kind of key an authority, and what it has issued to a server and to a client; ca.pem has both. A client
    may want to see nothing but signatures of one kind."""
    new = {"ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}
    with open(f"{folder}/extensions", "w") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:false\n")
    authorities = ""
    for key, words in new.items():
        make = ["req", "-nodes", *words]
        openssl(folder, *make, "-x509", "-keyout", f"ca-{key}.key", "-out", f"ca-{key}.pem", "-subj", f"/CN=ca-{key}", "-days", "30")
        with open(f"{folder}/ca-{key}.pem") as file:
            authorities += file.read()
        for name in (key, f"client-{key}"):
            openssl(folder, *make, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            sign = ["x509", "-req", "-in", f"{name}.csr", "-CA", f"ca-{key}.pem", "-CAkey", f"ca-{key}.key", "-CAcreateserial"]
            openssl(folder, *sign, "-out", f"{name}.pem", "-days", "30", "-extfile", "extensions")
    with open(f"{folder}/ca.pem", "w") as file:
        file.write(authorities)


def unused_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def sluice(path, folder, ports):
    listeners = "".join(
        f"- {{name: l{port}, kind: http, address: 127.0.0.1, port: {port}, tls: {{"
        f"certificates: [{{certificate: {folder}/{key}.pem, key: {folder}/{key}.key}}]"
        + (f", client: {{ca: {folder}/ca.pem, mode: optional}}" if asks else "")
        + "}}\n"
        for (key, asks), port in ports.items()
    )
    with open(f"{folder}/sluice.yaml", "w") as file:
        file.write(f"admin: {{socket: {folder}/admin.sock}}\nlisteners:\n{listeners}routes:\n- {{name: all, respond: {{status: 200, body: ok}}}}\n")
    return [path, "run", "-c", f"{folder}/sluice.yaml"]


def nginx(path, folder, ports):
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/{key}.pem; ssl_certificate_key {folder}/{key}.key; "
        + (f"ssl_client_certificate {folder}/ca.pem; ssl_verify_client optional; " if asks else "")
        + 'location / { return 200 "ok"; } }\n'
        for (key, asks), port in ports.items()
    )
    with open(f"{folder}/nginx.conf", "w") as file:
        file.write(
            f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}}\n"
            f"http {{ access_log off; ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers {SUITES}; ssl_ecdh_curve {GROUPS};\n"
            f"ssl_session_cache shared:tls:1m; ssl_prefer_server_ciphers off;\n{servers}}}\n"
        )
    return [path, "-p", folder, "-c", f"{folder}/nginx.conf"]


class Server:
    def __init__(self, name, command, folder, ports):
        self.name, self.ports = name, ports
        with open(f"{folder}/{name}.out", "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + 20
        for port in ports.values():
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline, f"{name} does not listen: {open(f'{folder}/{name}.out').read()}"
                time.sleep(0.05)


class Outcome:
    """What a script has said: the names of its conversations that passed and that failed, and why."""

    def __init__(self, output):
        self.failed, self.total, self.why = {}, 0, ""
        if found := re.search(r"^TOTAL: (\d+)$", output, re.M):
            self.total = int(found[1])
        lines = output.strip().splitlines()
        self.why = lines[-1] if lines else ""
        name, error = None, None
        for line in lines:
            if line.endswith(" ..."):
                name, error = line[:-4], None
            elif line == "OK" or line.startswith("OK-") or line.startswith("XPASS-"):
                name = None
            elif name and re.match(r"(\w+\.)*\w*(Error|Exception|Timeout|Alert)\w*\b", line):
                error = line
                self.failed[name] = error
        self.ended = "Test end" in output or self.total > 0


def run(python, folder, script, port, choices, most):
    """Has a script converse with a port: by at most so many conversations, or by `sanity` alone."""
    text = source(folder, script)
    command = [python, "-c", RUN, f"scripts/{script}", "-h", "127.0.0.1", "-p", str(port), *choices]
    if most is None:
        command += ["sanity"]
    elif re.search(r'getopt\(argv, "[^"]*n:', text):
        command += ["-n", str(most)]
    try:
        done = subprocess.run(command, cwd=folder, timeout=SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return Outcome(done.stdout), done.stdout
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        return Outcome(output), output + f"\nnot done within {SECONDS} s"


def source(folder, script):
    path = f"{folder}/tlsfuzzer/_apps/{script[:-3].replace('-', '_')}.py"
    with open(path if os.path.exists(path) else f"{folder}/scripts/{script}") as file:
        return file.read()


def choices(folder, script, certificates):
    """The listeners and choices that are tried for a script, the best ones first."""
    text = source(folder, script)
    # `-d` asks for key exchange by (EC)DHE, `-C` for a suite.
    options = [["-d"], []] if "opt == '-d'" in text else [[]]
    if "-C ciph" in text and "tls13" not in script:
        options = [option + ["-C", SUITE] for option in options] + options
    kinds = [("rsa", False), ("ecdsa", False)]
    if "opt == '-k'" in text:
        kinds = [("rsa", True)]
        key = "ecdsa" if "ecdsa" in script else "rsa"
        shown = ["-k", f"{certificates}/client-{key}.key", "-c", f"{certificates}/client-{key}.pem"]
        options = [option + shown for option in options]
    for key, asks in kinds:
        for option in options:
            yield (key, asks), [ECDSA_SUITE if word == SUITE and key == "ecdsa" else word for word in option]


class Result:
    def __init__(self, script):
        self.script, self.outcomes, self.choices, self.output = script, {}, None, ""

    def line(self, name):
        outcome = self.outcomes.get(name)
        if outcome is None:
            return "-"
        if not outcome.ended:
            return "not done"
        return f"{outcome.total - len(outcome.failed)}/{outcome.total}"


def converse(python, folder, script, servers, certificates, most):
    result = Result(script)
    for kind, option in choices(folder, script, certificates):
        outcome, output = run(python, folder, script, servers[0].ports[kind], option, None)
        result.output += f"--- {script} {option} at {servers[0].name}: sanity\n{output}\n"
        if outcome.ended and not outcome.failed:
            result.choices = option
            break
    else:
        return result
    for server in servers:
        outcome, output = run(python, folder, script, server.ports[kind], option, most)
        result.outcomes[server.name] = outcome
        result.output += f"--- {script} {option} at {server.name}\n{output}\n"
    return result


def report(results, names):
    """Prints the table, and each conversation that one of the servers passed and the other did not."""
    print(f"{'script':60} " + " ".join(f"{name:>10}" for name in names))
    passed, total = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for result in results:
        print(f"{result.script:60} " + " ".join(f"{result.line(name):>10}" for name in names))
        for name, outcome in result.outcomes.items():
            passed[name] += outcome.total - len(outcome.failed)
            total[name] += outcome.total
    print(f"{'conversations passed':60} " + " ".join(f"{passed[n]}/{total[n]}".rjust(10) for n in names))
    applied = [result for result in results if result.outcomes]
    print(f"{len(applied)} scripts; {len(results) - len(applied)} want what neither offers")
    for result in applied:
        failed = {name: outcome.failed for name, outcome in result.outcomes.items()}
        for name in names:
            others = [set(failed[other]) for other in names if other != name]
            for conversation in sorted(set(failed[name]).difference(*others)):
                print(f"only {name} fails: {result.script}: {conversation}: {failed[name][conversation]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--sluice", default="target/debug/sluice")
    parser.add_argument("--nginx", default="/usr/sbin/nginx")
    parser.add_argument("--only", action="append", default=[], help="scripts with this word in their names")
    parser.add_argument("--most", type=int, default=100, help="conversations of a script")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", help="a file for all that the scripts say")
    arguments = parser.parse_args()
    checkout = os.path.abspath(arguments.folder)
    scripts = sorted(name for name in os.listdir(f"{checkout}/scripts") if name.startswith("test-") and name.endswith(".py"))
    scripts = [name for name in scripts if not any(word in name for word in LEFT_OUT)]
    if arguments.only:
        scripts = [name for name in scripts if any(word in name for word in arguments.only)]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        certificates(folder)
        ports = unused_ports(2 * len(KINDS))
        of_nginx, of_sluice = (dict(zip(KINDS, part)) for part in (ports[: len(KINDS)], ports[len(KINDS) :]))
        servers = []
        try:
            servers.append(Server("nginx", nginx(arguments.nginx, folder, of_nginx), folder, of_nginx))
            servers.append(Server("sluice", sluice(os.path.abspath(arguments.sluice), folder, of_sluice), folder, of_sluice))
            with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
                tell = lambda script: converse(sys.executable, checkout, script, servers, folder, arguments.most)
                results = list(pool.map(tell, scripts))
        finally:
            for server in servers:
                server.process.terminate()
                server.process.wait()
    if arguments.log:
        with open(arguments.log, "w") as file:
            file.writelines(result.output for result in results)
    report(results, [server.name for server in servers])


if __name__ == "__main__":
    main()
