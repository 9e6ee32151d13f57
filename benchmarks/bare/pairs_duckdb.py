"""The same in DuckDB, with the same safety rules: it refuses the window of the dumps, so they are decompressed first.

python pairs_duckdb.py DUMPS OUT.parquet
"""

import sys
import tempfile
from pathlib import Path

import duckdb
import zstandard

from llumi.safety import SafetyRules

PREPARE, WRITE = (
    """
CREATE TEMP VIEW post_captures AS
    SELECT id, title, selftext, author, retrieved_on FROM read_json('{folder}/*_submissions', format='newline_delimited',
    columns={{id: 'VARCHAR', title: 'VARCHAR', selftext: 'VARCHAR', author: 'VARCHAR', retrieved_on: 'BIGINT'}});
CREATE TEMP VIEW comment_captures AS
    SELECT * FROM read_json('{folder}/*_comments', format='newline_delimited',
    columns={{id: 'VARCHAR', link_id: 'VARCHAR', parent_id: 'VARCHAR', author: 'VARCHAR', score: 'BIGINT', body: 'VARCHAR',
    retrieved_on: 'BIGINT', stickied: 'BOOLEAN', is_submitter: 'BOOLEAN', distinguished: 'VARCHAR'}});
CREATE TEMP TABLE posts AS
    SELECT * FROM (SELECT id,
    arg_max({{'title': title, 'selftext': selftext, 'author': author}}, retrieved_on) AS post FROM post_captures GROUP BY id)
    WHERE post.selftext NOT IN ('[removed]', '[deleted]') AND post.author NOT IN ('[removed]', '[deleted]');
CREATE TEMP TABLE repeated AS
    SELECT id FROM comment_captures GROUP BY id HAVING count(*) > 1;
CREATE TEMP TABLE captures AS
    SELECT id, link_id, author, score, retrieved_on,
    parent_id LIKE 't3\\_%' ESCAPE '\\' AND author NOT IN ('[removed]', '[deleted]', 'AutoModerator')
    AND body NOT IN ('[removed]', '[deleted]') AND NOT stickied AND NOT is_submitter AND distinguished IS NULL
    AND score IS NOT NULL AS is_kept, CASE WHEN is_kept THEN body END AS body FROM comment_captures;
CREATE TEMP TABLE comments AS
    SELECT id, link_id, author, score, body FROM captures WHERE is_kept AND id NOT IN (SELECT id FROM repeated)
    UNION ALL
    SELECT id, link_id, author, score, body FROM captures WHERE id IN (SELECT id FROM repeated)
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY retrieved_on DESC) = 1 AND is_kept;
CREATE TEMP TABLE replies AS
    SELECT comments.id, posts.id AS post_id, score, body,
    row_number() OVER (PARTITION BY posts.id ORDER BY score DESC, comments.id) AS best,
    row_number() OVER (PARTITION BY posts.id ORDER BY score, comments.id) AS worst
    FROM comments JOIN posts ON comments.link_id = 't3_' || posts.id WHERE comments.author <> posts.post.author;
""",
    """
COPY (
    SELECT posts.post.title || chr(10) || chr(10) || posts.post.selftext AS prompt, chosen.body AS chosen,
    rejected.body AS rejected, chosen.score AS score, rejected.score AS score_rejected
    FROM replies AS chosen JOIN replies AS rejected USING (post_id) JOIN posts ON posts.id = post_id
    WHERE chosen.best <= 4 AND chosen.id NOT IN (SELECT id FROM refused)
    AND rejected.worst <= 4 AND chosen.score - rejected.score >= 2
    QUALIFY row_number() OVER (PARTITION BY post_id
    ORDER BY chosen.score - rejected.score DESC, chosen.best, rejected.worst) <= 4
) TO '{out}' (FORMAT parquet);
""",
)


def main() -> None:
    """Decompress, query, write."""
    dumps, out = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=out.parent) as plain:
        for path in sorted(dumps.glob("*.zst")):
            with path.open("rb") as source, Path(plain, path.stem).open("wb") as sink:
                zstandard.ZstdDecompressor(max_window_size=2**31).copy_stream(source, sink)
        with duckdb.connect(config={"temp_directory": plain}) as connection:
            connection.execute(PREPARE.format(folder=plain))
            best = connection.sql("SELECT id, body FROM replies WHERE best <= 4").pl()
            connection.register("refused", best.filter(SafetyRules.load().vetoes(best["body"]).is_not_null()).select("id"))
            connection.execute(WRITE.format(out=out))


if __name__ == "__main__":
    main()
