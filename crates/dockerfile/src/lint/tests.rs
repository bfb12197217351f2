use super::*;

/// Name and line of each warning.
fn found(text: &str, ignore: &str, base: Option<BaseImage>) -> Vec<(&'static str, usize)> {
    let file = Dockerfile::parse(text).unwrap_or_else(|fault| panic!("{text}: {}", fault.message));
    let platform: Platform = "linux/amd64".parse().unwrap();
    let parameters = Parameters { target: platform.clone(), builder: platform, ..Parameters::default() };
    let ignore = Ignore::parse(ignore).unwrap();
    let facts =
        Facts { parameters: &parameters, ignore: Some(&ignore), bases: &|_| base.clone(), target: None };
    let report = check(&file, facts);
    assert_eq!(report.fault, None, "{text}");
    report.warnings.iter().map(|warning| (warning.rule.name(), warning.span.lines(text).0)).collect()
}

#[test]
fn each_rule_finds_what_it_is_for() {
    for (text, wanted) in [
        ("FROM a\nRUN $x\nCMD [\"a\"]\n", vec![]),
        ("FROM a AS B\n", vec![("StageNameCasing", 1)]),
        ("from a AS b\nrun a\n", vec![("FromAsCasing", 1)]),
        ("FROM a as b\n", vec![("FromAsCasing", 1)]),
        ("FROM a\nRUN a \\\n\n b\n", vec![("NoEmptyContinuation", 2)]),
        ("FROM a\nrun a\n", vec![("ConsistentInstructionCasing", 2)]),
        ("from a\nRun a\nrun b\n", vec![("ConsistentInstructionCasing", 2)]),
        ("FROM a AS x\nFROM b AS x\n", vec![("DuplicateStageName", 2)]),
        ("FROM a AS scratch\n", vec![("ReservedStageName", 1)]),
        ("FROM a\nCMD a\n", vec![("JSONArgsRecommended", 2)]),
        ("FROM a\nENTRYPOINT a\n", vec![("JSONArgsRecommended", 2)]),
        ("FROM a\nSHELL [\"sh\"]\nCMD a\n", vec![]),
        ("FROM a\nMAINTAINER a\n", vec![("MaintainerDeprecated", 2)]),
        ("ARG TAG\nFROM a${TGA}\n", vec![("UndefinedArgInFrom", 2)]),
        ("FROM a\nWORKDIR x\nWORKDIR y\n", vec![("WorkdirRelativePath", 2)]),
        ("FROM a\nWORKDIR /x\nWORKDIR y\n", vec![]),
        ("FROM a\nENV a=$b\n", vec![("UndefinedVar", 2)]),
        ("FROM a\nARG b\nENV a=$b\nENV c=$BASE\n", vec![]),
        ("FROM a\nARG b=$c\n", vec![("UndefinedVar", 2)]),
        ("FROM a\nCOPY --chown=$u . .\n", vec![("UndefinedVar", 2)]),
        ("FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n", vec![("MultipleInstructionsDisallowed", 2)]),
        ("FROM a\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n", vec![("MultipleInstructionsDisallowed", 2)]),
        ("FROM a AS b\nCMD [\"a\"]\nFROM b\nCMD [\"b\"]\n", vec![]),
        ("FROM a\nENV a b\nLABEL c d\n", vec![("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)]),
        ("FROM --platform=$TARGETPLATFORM a\n", vec![("RedundantTargetPlatform", 1)]),
        ("FROM --platform=$BUILDPLATFORM a\n", vec![]),
        (
            "FROM a\nARG API_KEY\nENV Token=x\n",
            vec![("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 3)],
        ),
        ("FROM a\nARG PUBLIC_KEY TOKEN_FILE KEYBOARD\n", vec![]),
        ("ARG V\nFROM a:$V\n", vec![("InvalidDefaultArgInFrom", 2)]),
        ("FROM --platform=linux/amd64 a\n", vec![("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=linux/amd64 a AS build_amd64\n", vec![]),
        ("FROM a\nCOPY ./x/y /\nADD x z /\nCOPY . /\n", vec![("CopyIgnoredFile", 2), ("CopyIgnoredFile", 3)]),
        ("FROM a AS b\nFROM a\nCOPY --from=b x /\nADD https://x/x /\n", vec![]),
        (
            "# check=experimental=all\n# wrong word\nFROM a AS b\n# c is fine\nARG c\n",
            vec![("InvalidDefinitionDescription", 3)],
        ),
        ("FROM a\nEXPOSE 80/TCP\n", vec![("ExposeProtoCasing", 2)]),
        ("FROM a\nEXPOSE 80:80\n", vec![("ExposeInvalidFormat", 2)]),
        ("# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER a\n", vec![]),
        ("FROM a\n# check=skip=UndefinedVar\nENV a=$b\nENV b=$c\n", vec![("UndefinedVar", 4)]),
    ] {
        let base = BaseImage { environment: vec![("BASE".into(), "1".into())], ..BaseImage::default() };
        assert_eq!(found(text, "x\n", Some(base)), wanted, "{text}");
    }
}

#[test]
fn what_is_not_known_is_not_blamed() {
    assert_eq!(found("FROM a\nENV a=$b\n", "", None), []);
    assert_eq!(found("FROM a\nCOPY x /\n", "*\n!x\n", None), []);
    let arm = BaseImage { platform: "linux/arm64".parse().ok(), ..BaseImage::default() };
    assert_eq!(found("FROM a\n", "", Some(arm)), [("InvalidBaseImagePlatform", 1)]);
    let triggers = BaseImage { on_build: vec!["ENV a=$b".into()], ..BaseImage::default() };
    assert_eq!(found("FROM a\n", "", Some(triggers)), [("UndefinedVar", 1)]);
}

#[test]
fn a_fault_leaves_the_warnings_before_it() {
    let text = "# check=error=true\nFROM a AS B\nEXPOSE x\n";
    let file = Dockerfile::parse(text).unwrap();
    let parameters = Parameters::default();
    let report =
        check(&file, Facts { parameters: &parameters, ignore: None, bases: &|_| None, target: None });
    assert_eq!(report.warnings[0].rule, Rule::StageNameCasing);
    assert_eq!(report.warnings[0].message, "Stage name 'B' should be lowercase");
    assert!(report.warnings_are_errors);
    assert_eq!(report.fault.unwrap().message, "invalid containerPort: x");
}
