#!/usr/bin/env bash
# Apply .github/branch_protection.md to a repository, as often as you like:
#   bash .github/scripts/protect-main.sh owner/name
# Takes gh, logged in as an administrator of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

repository=${1:?"usage: protect-main.sh OWNER/NAME"}
if grep --quiet '@your-github-username' CODEOWNERS; then
  echo "CODEOWNERS names nobody yet: put a user or a team in the place of @your-github-username, and merge that first" >&2
  exit 1
fi

api() { # METHOD PATH, and the body on standard input
  gh api --method "$1" "repos/$repository$2" --input - --silent
}

echo "Merging: by rebase alone; secrets are found, and refused when pushed"
api PATCH "" <<'JSON'
{
  "allow_merge_commit": false,
  "allow_rebase_merge": true,
  "allow_squash_merge": false,
  "delete_branch_on_merge": true,
  "security_and_analysis": {
    "secret_scanning": { "status": "enabled" },
    "secret_scanning_push_protection": { "status": "enabled" }
  }
}
JSON

echo "The ruleset of the default branch"
id=$(gh api "repos/$repository/rulesets" --jq '.[] | select(.name == "main") | .id')
if [ -n "$id" ]; then
  api PUT "/rulesets/$id" < rulesets/main.json
else
  api POST /rulesets < rulesets/main.json
fi

echo "Workflows: read only unless they say otherwise, with actions by their commit"
api PUT /actions/permissions/workflow <<< '{"default_workflow_permissions": "read", "can_approve_pull_request_reviews": false}'
api PUT /actions/permissions <<< '{"enabled": true, "allowed_actions": "all", "sha_pinning_required": true}'

echo "Environment gcp, security updates, and private reports of weaknesses"
for switch in environments/gcp vulnerability-alerts automated-security-fixes private-vulnerability-reporting; do
  gh api --method PUT "repos/$repository/$switch" --silent
done
