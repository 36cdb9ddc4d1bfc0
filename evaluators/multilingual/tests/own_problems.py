"""Problems in the datasets' formats, with solutions, written for these tests."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["HUMANEVAL_PACK", "HUMANEVAL_X", "MULTIPL_E", "SOLUTIONS", "WHOLE_HUMANEVAL_X", "WHOLE_MULTIPL_E", "written"]

HUMANEVAL_X: dict[str, dict[str, Any]] = {
    "javascript": {
        "task_id": "JavaScript/0",
        "prompt": "/* Triple each number: 1, 2 gives 3, 6. */\nconst tripled = (numbers) => {\n",
        "declaration": "\nconst tripled = (numbers) => {\n",
        "canonical_solution": "  return numbers.map((x) => 3 * x);\n}\n\n",
        "test": "const testTripled = () => {\n"
        "  console.assert(JSON.stringify(tripled([1, 2])) === JSON.stringify([3, 6]))\n}\n\ntestTripled()\n",
    },
    "java": {
        "task_id": "Java/0",
        "prompt": "import java.util.*;\nimport java.lang.*;\n\nclass Solution {\n"
        "    /** Triple each number of a class of numbers. */\n    public List<Integer> tripled(List<Integer> numbers) {\n",
        "declaration": "class Solution {\n    public List<Integer> tripled(List<Integer> numbers) {\n",
        "canonical_solution": "        List<Integer> found = new ArrayList<>();\n"
        "        for (int x : numbers) {\n            found.add(3 * x);\n        }\n        return found;\n    }\n}",
        "test": "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        if (!s.tripled(Arrays.asList(1, 2)).equals(Arrays.asList(3, 6))) {\n"
        "            throw new AssertionError();\n        }\n    }\n}\n",
    },
    "cpp": {
        "task_id": "CPP/0",
        "prompt": "/*\nTriple each number.\n*/\n#include<stdio.h>\n#include<vector>\n#include<boost/any.hpp>\n"
        "using namespace std;\nvector<int> tripled(vector<int> numbers){\n",
        "declaration": "vector<int> tripled(vector<int> numbers){\n",
        "canonical_solution": "    for (int& x : numbers) x = 3 * x;\n    return numbers;\n}\n",
        "test": "#undef NDEBUG\n#include<assert.h>\nint main(){\n    boost::any two = 2;\n"
        "    assert (tripled({1, boost::any_cast<int>(two)}) == vector<int>({3, 6}));\n}\n",
    },
    "rust": {
        "task_id": "Rust/0",
        "prompt": "\n/*\n Triple each number.\n*/\n",
        "declaration": "\nuse std::collections::HashMap;\nuse rand::Rng;\nuse regex::Regex;\nuse md5;\n\n"
        "fn tripled(numbers: Vec<i32>) -> Vec<i32> {\n",
        "canonical_solution": "    return numbers.iter().map(|x| 3 * x).collect();\n}\n",
        "test": "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_tripled() {\n"
        "        assert_eq!(tripled(vec![1, 2]), vec![3, 6]);\n    }\n}\n",
    },
    "go": {
        "task_id": "Go/0",
        "prompt": 'import (\n    "math"\n)\n\n// Triple, one at a time.\nfunc Tripled(numbers []float64) []float64 {\n',
        "declaration": "\nfunc Tripled(numbers []float64) []float64 {\n",
        "import": 'import (\n    "math"\n)\n',
        "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
        "canonical_solution": "    found := []float64{}\n    for _, x := range numbers {\n"
        "        found = append(found, math.Floor(3 * x))\n    }\n    return found\n}\n",
        "test": "func TestTripled(t *testing.T) {\n    assert := assert.New(t)\n"
        '    assert.Equal([]float64{3, 6}, Tripled([]float64{1, 2}), "tripled")\n}\n',
    },
    "python": {
        "task_id": "Python/0",
        "prompt": "from typing import List\n\n\ndef tripled(numbers: List[int]) -> List[int]:\n    '''Triple.'''\n",
        "declaration": "def tripled(numbers: List[int]) -> List[int]:\n",
        "canonical_solution": "    return [3 * x for x in numbers]\n",
        "test": "def check(tripled):\n    assert tripled([1, 2]) == [3, 6]\n\ncheck(tripled)\n",
    },
}

_IMPORTS = {
    "java": "import java.util.*;\nimport java.lang.*;\n\n",
    "cpp": "#include<stdio.h>\n#include<vector>\n#include<boost/any.hpp>\nusing namespace std;\n",
}
"""HumanEvalPack has them in the declarations of these languages, HumanEval-X only in the prompts."""
HUMANEVAL_PACK: dict[str, dict[str, Any]] = {
    name: record
    | {
        "declaration": _IMPORTS.get(name, "") + record["declaration"],
        "buggy_solution": record["canonical_solution"].replace("3 *", "4 *"),
        "entry_point": "Tripled" if name == "go" else "tripled",
        "instruction": "Write a function `tripled` to solve the following problem:\nTriple each number.",
    }
    for name, record in HUMANEVAL_X.items()
}

MULTIPL_E: dict[str, dict[str, Any]] = {
    "javascript": {
        "name": "Own_1_longest",
        "language": "js",
        "prompt": "//Return the longest text.\nfunction longest(texts){\n",
        "tests": "const assert = require('node:assert');\n\n\nfunction test() {\n  let candidate = longest;\n"
        '  assert.deepEqual(candidate(["a", "bcd"]),"bcd");\n}\n\ntest();',
        "stop_tokens": ["\nfunction ", "\n/*", "\n//", "\nconsole.log"],
    },
    "java": {
        "name": "Own_1_with_length",
        "language": "java",
        "prompt": "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n    // Return a text with its length.\n"
        "    public static Pair<String, Long> withLength(String text) {\n",
        "tests": "    }\n    public static void main(String[] args) {\n"
        '    assert(withLength(("bcd")).equals((Pair.with("bcd", 3l))));\n    }\n\n}\n',
        "stop_tokens": ["\n    }\n"],
    },
    "cpp": {
        "name": "Own_1_longest",
        "language": "cpp",
        "prompt": "#include<assert.h>\n#include<bits/stdc++.h>\n// Return the longest text.\n"
        "std::string longest(std::vector<std::string> texts) {\n",
        "tests": "}\nint main() {\n    auto candidate = longest;\n"
        '    assert(candidate((std::vector<std::string>({"a", "bcd"}))) == ("bcd"));\n}\n',
        "stop_tokens": ["\n}"],
    },
    "rust": {
        "name": "Own_1_longest",
        "language": "rs",
        "prompt": "/// Return the longest text.\nfn longest(texts: Vec<String>) -> String {\n",
        "tests": "}\n\nfn main() {\n    let candidate = longest;\n"
        '    assert_eq!(candidate(vec![String::from("a"), String::from("bcd")]), String::from("bcd"));\n}\n',
        "stop_tokens": ["\n}"],
    },
    "go": {
        "name": "Own_1_longest",
        "language": "go_test.go",
        "prompt": 'package longest_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// Return the longest text.\n'
        "func longest(texts []string) string {\n",
        "tests": "func TestLongest(t *testing.T) {\n"
        '    if found := longest([]string{"a", "bcd"}); fmt.Sprint(found) != "bcd" {\n'
        '        t.Errorf("got %s", found)\n    }\n}\n',
        "stop_tokens": ["\nfunc", "struct", "\n// "],
    },
}

SOLUTIONS = {
    "javascript": "  return texts.reduce((one, two) => one.length > two.length ? one : two);\n}\n",
    "java": "        class Shown { String text = text(); String text() { return text; } }\n"
    "        return Pair.with(text, (long) text.length());",
    "cpp": "    std::string found;\n    for (auto& text : texts) {\n"
    "        if (text.size() > found.size()) found = text;\n    }\n    return found;",
    "rust": "    // not a #[test]\n    let mut found = String::new();\n    for text in texts {\n"
    "        if text.len() > found.len() {\n            found = text;\n        }\n    }\n    found",
    "go": '    found := ""\n    for _, text := range texts {\n        if len(text) > len(found) {\n'
    "            found = text\n        }\n    }\n    return found\n}\n",
}
"""Continuations of the prompts of `MULTIPL_E`, up to the stop string."""

WHOLE_HUMANEVAL_X = {
    "javascript": "const tripled = (numbers) => numbers.map((x) => 3 * x);\nconsole.log(tripled([1]));\n",
    "java": "import java.util.*;\n\npublic class Solution {\n    public List<Integer> tripled(List<Integer> numbers) {\n"
    "        List<Integer> found = new ArrayList<>();\n        for (int x : numbers) found.add(3 * x);\n"
    "        return found;\n    }\n}\n\nclass Main {\n    public static void main(String[] args) {\n"
    "        System.out.println(new Solution().tripled(Arrays.asList(1)));\n    }\n}\n",
    "cpp": "#include <vector>\nstd::vector<int> tripled(std::vector<int> numbers) {\n    for (int& x : numbers) x = 3 * x;\n"
    "    return numbers;\n}\n\nint main() { return 0; }\n",
    "rust": 'fn main() { println!("{:?}", tripled(vec![1])); }\n\nfn tripled(numbers: Vec<i32>) -> Vec<i32> {\n'
    "    numbers.iter().map(|x| 3 * x).collect()\n}\n",
    "go": 'package main\n\nimport (\n    "fmt"\n    "unused"\n)\nimport m "math"\n\n'
    "func Tripled(numbers []float64) []float64 {\n    found := []float64{}\n    for _, x := range numbers {\n"
    "        found = append(found, m.Floor(3 * x))\n    }\n    return found\n}\n\n"
    "func main() {\n    fmt.Println(Tripled([]float64{1}))\n}\n",
    "python": "def tripled(numbers: List[int]):\n    return [3 * x for x in numbers]\n\n\nprint(tripled([1]))\n",
}
WHOLE_MULTIPL_E = {
    "javascript": "function longest(texts) {\n  return texts.sort((one, two) => two.length - one.length)[0];\n}\n",
    "java": "import java.util.*;\nimport org.javatuples.Pair;\n\npublic class Problem {\n"
    "    public static Pair<String, Long> withLength(String text) {\n        return Pair.with(text, (long) text.length());\n"
    '    }\n\n    public static void main(String[] args) {\n        System.out.println(withLength("a"));\n    }\n}\n',
    "cpp": "#include <string>\nstd::string longest(std::vector<std::string> texts) {\n    std::string found;\n"
    "    for (auto& text : texts) if (text.size() > found.size()) found = text;\n    return found;\n}\n\n"
    "int main() { return 0; }\n",
    "rust": "fn longest(texts: Vec<String>) -> String {\n    texts.into_iter().max_by_key(|text| text.len()).unwrap()\n}\n\n"
    'fn main() { println!("{}", longest(vec![])); }\n',
    "go": 'package main\n\nimport "fmt"\nimport "strings"\n\nfunc longest(texts []string) string {\n'
    '    found := strings.Repeat("", 1)\n    for _, text := range texts {\n        if len(text) > len(found) {\n'
    "            found = text\n        }\n    }\n    return found\n}\n\n"
    "func main() {\n    fmt.Println(longest(nil))\n}\n",
}
"""Answers that stand for themselves, as a server gives them, with a `main` of their own."""


def written(folder: Path, *records: dict[str, Any]) -> Path:
    """Write records as a data set's file, and return it."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    file = folder / f"{sha256(text.encode()).hexdigest()[:8]}.jsonl"
    file.write_text(text, encoding="utf-8")
    return file
