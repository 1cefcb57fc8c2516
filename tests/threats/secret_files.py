"""Files that hold secrets, as programs really write them. Every secret in them begins with the canary."""

import json
import sqlite3
from pathlib import Path

CANARY = "CANARY7f3a"
_PEM = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}b3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
_SQLITE = "a database"

SECRET_FILES: dict[str, str] = {
    ".aws/credentials": f"[default]\naws_access_key_id = AKIAQQQQQQQQQQQQQQQQ\naws_secret_access_key = {CANARY}\n",
    ".aws/config": f"[profile x]\nsso_session = {CANARY}\n",
    ".ssh/id_rsa": _PEM,
    ".ssh/id_ed25519": _PEM,
    ".ssh/config": f"Host {CANARY}\n",
    ".env": f"OPENAI_API_KEY={CANARY}\n",
    ".env.local": f"DATABASE_URL=postgres://me:{CANARY}@db/x\n",
    ".netrc": f"machine x login me password {CANARY}\n",
    ".pgpass": f"db:5432:*:me:{CANARY}\n",
    ".npmrc": f"//registry/:_authToken={CANARY}\n",
    ".pypirc": f"[pypi]\npassword = {CANARY}\n",
    ".docker/config.json": json.dumps({"auths": {"x": {"auth": CANARY}}}),
    ".kube/config": f"users:\n- user: {{token: {CANARY}}}\n",
    ".git-credentials": f"https://me:{CANARY}@host\n",
    ".config/gh/hosts.yml": f"host:\n  oauth_token: {CANARY}\n",
    ".config/gcloud/application_default_credentials.json": json.dumps({"refresh_token": CANARY}),
    ".gnupg/private-keys-v1.d/a.key": f"(11:private-key {CANARY})",
    ".bash_history": f"export TOKEN={CANARY}\n",
    ".claude.json": json.dumps({"oauthAccount": CANARY}),
    ".mozilla/cookies.sqlite": _SQLITE,
    "Cookies": _SQLITE,
    "Login Data": _SQLITE,
    "cookies.json": _SQLITE,
    "id_rsa": _PEM,
    "key.pem": _PEM,
    "server.key.txt": _PEM,
    "keys.jsonl": _PEM,
    "service-account.json": json.dumps({"type": "service_account", "private_key": CANARY}),
    "client_secret.json": json.dumps({"installed": {"client_secret": CANARY}}),
    "cookies-exported.json": json.dumps([{"domain": "x", "name": "session", "value": CANARY}] * 3),
    "kubeconfig": f"token: {CANARY}\n",
    "kubeconfig.yaml": f"token: {CANARY}\n",
    "terraform.tfstate": json.dumps({"resources": [CANARY]}),
    "secrets.yaml": f"password: {CANARY}\n",
    "shadow": f"root:$6${CANARY}:19000:0:99999:7:::\n",
    "wallet.dat": f"\0\0{CANARY}",
    "chrome-passwords.csv": f"name,url,username,password\nx,http://x,me,{CANARY}\n" * 3,
    "1password.csv": f"Title,Username,Password\nx,me,{CANARY}\ny,me,{CANARY}\nz,me,{CANARY}\n",
    "bitwarden.json": json.dumps({"items": [{"login": {"password": CANARY}}]}),
    "accessKeys.csv": f"Access key ID,Secret access key\nAKIAQQQQQQQQQQQQQQQQ,{CANARY}\n",
    "env.txt": f"A=1\nOPENAI_API_KEY=sk-proj-{CANARY}abcdefghijkl\n",
    "tokens.jsonl": "".join(json.dumps({"token": f"{CANARY}{number}"}) + "\n" for number in range(5)),
    "disguised.jsonl": "".join(
        json.dumps({"input": f"sk-live-{CANARY}abcdefghij{number}", "output": "x"}) + "\n" for number in range(5)
    ),
}


def write(folder: Path, name: str, content: str) -> Path:
    """One of them, where its program would put it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == _SQLITE:
        with sqlite3.connect(path) as database:
            database.execute("create table cookies (host text, value text)")
            database.execute("insert into cookies values ('x', ?)", (CANARY,))
    else:
        path.write_text(content)
    return path
