GitLab runs what CI runs (neither is in a release's archive):

  $ cd "$TOP_SRCDIR"
  $ [ -e .ci/run ] && [ -e .gitlab-ci.yml ] || exit 80
  $ sed -n 's/^exec .*\(scripts.test\).*/\1/p' .ci/run
  scripts/test
  $ sed -n 's/^    - \(scripts.*\)/\1/p' .gitlab-ci.yml
  scripts/test
  scripts/test --quick
